# Three images from one file, each with more than the one before. The command of a container says which process it is.
#
#   headrace             serve, gateway, simulate: all that needs neither of the following
#   headrace-archive     and Parquet: archive, load
#   headrace-learning    and torch: the shards, replays, the console, which starts such
#
# PYTHON is the base: any image with Python 3.11 to 3.13 as `python` and with venv. TORCH=cpu|auto|cu130... chooses torch's
# build (uv's --torch-backend); where PyTorch's own index does not answer, it is that of the package index, as in `make setup`.
# How to reach package indexes comes as build secrets (requirements/image.sh), which no layer keeps.
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS tools
WORKDIR /src
COPY requirements requirements
RUN --mount=type=secret,id=packages --mount=type=secret,id=certificates \
    --mount=type=secret,id=apt,target=/etc/apt/apt.conf.d/99headrace sh requirements/image.sh tools

FROM tools AS wheel
COPY . .
RUN /opt/tools/bin/python -m hatchling build -t wheel -d /wheel

FROM tools AS packages
RUN --mount=type=secret,id=packages --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache/uv \
    sh requirements/image.sh packages

# What changes rarely comes first: with-packages, with-parquet, with-torch have no code of ours.
FROM ${PYTHON} AS with-packages
# Blobs are shared by all processes: one user, one place. A named volume takes over the folder's owner.
RUN useradd --uid 10001 --create-home headrace && install -d -o headrace -g headrace /blobs /spool /archive /console /backup && \
    install -d -m 700 -o headrace -g headrace /secrets
COPY --from=packages /opt/headrace /opt/headrace
WORKDIR /home/headrace
ENV PATH=/opt/headrace/bin:$PATH PYTHONUNBUFFERED=1
ENTRYPOINT ["headrace"]
CMD ["--help"]

FROM with-packages AS with-parquet
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools --mount=type=bind,from=tools,source=/src,target=/src \
    --mount=type=secret,id=packages --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache/uv \
    sh /src/requirements/image.sh parquet

FROM with-parquet AS with-torch
ARG TORCH=cpu
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools --mount=type=bind,from=tools,source=/src,target=/src \
    --mount=type=secret,id=packages --mount=type=secret,id=certificates --mount=type=cache,target=/root/.cache/uv \
    sh /src/requirements/image.sh torch "$TORCH"

FROM with-packages AS headrace
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools --mount=type=bind,from=tools,source=/src,target=/src \
    --mount=type=bind,from=wheel,source=/wheel,target=/wheel sh /src/requirements/image.sh headrace
USER headrace

FROM with-parquet AS headrace-archive
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools --mount=type=bind,from=tools,source=/src,target=/src \
    --mount=type=bind,from=wheel,source=/wheel,target=/wheel sh /src/requirements/image.sh headrace
USER headrace

FROM with-torch AS headrace-learning
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools --mount=type=bind,from=tools,source=/src,target=/src \
    --mount=type=bind,from=wheel,source=/wheel,target=/wheel sh /src/requirements/image.sh headrace
USER headrace
