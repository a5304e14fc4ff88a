# One image for every process; the command says which. TORCH=auto|cpu|cu130... chooses torch's build (uv's --torch-backend).
FROM python:3.13-slim AS build
ARG TORCH=cpu
WORKDIR /src
# The image's user cannot write bytecode beside the code: without it each process compiles all that it imports anew.
ENV UV_COMPILE_BYTECODE=1
RUN python -m venv /opt/headrace
COPY requirements requirements
RUN /opt/headrace/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements/build.lock
RUN /opt/headrace/bin/uv pip install --no-cache --python /opt/headrace/bin/python --require-hashes --no-deps -r requirements/run.lock
RUN /opt/headrace/bin/uv pip install --no-cache --python /opt/headrace/bin/python --torch-backend=$TORCH -r requirements/torch.txt
COPY . .
RUN /opt/headrace/bin/uv pip install --no-cache --python /opt/headrace/bin/python --no-deps --no-build-isolation .

FROM python:3.13-slim
COPY --from=build /opt/headrace /opt/headrace
# Blobs are shared by all processes: one user, one place. A named volume takes over the folder's owner.
RUN useradd --uid 10001 --create-home headrace && install -d -o headrace -g headrace /blobs /spool && \
    install -d -m 700 -o headrace -g headrace /secrets
USER headrace
WORKDIR /home/headrace
ENV PATH=/opt/headrace/bin:$PATH PYTHONUNBUFFERED=1
VOLUME /blobs
ENTRYPOINT ["headrace"]
CMD ["--help"]
