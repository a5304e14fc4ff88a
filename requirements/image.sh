#!/bin/sh
# The steps of the Dockerfile that install: sh requirements/image.sh tools | packages | parquet | torch BUILD | headrace
#
# How to reach the package indexes from here comes as secrets of the build, which no layer keeps: `packages`, settings of
# pip and uv as NAME=VALUE lines (deploy/compose/packages.env says which), `certificates`, a PEM file of CAs, and `apt`, a
# file of apt's settings.
set -eu
cd "$(dirname "$0")/.."
tools=/opt/tools packages=/opt/headrace python=/opt/headrace/bin/python
# What only torch needs of run.lock (a test compares).
of_torch='filelock|mpmath|networkx|setuptools|sympy'

if [ -s /run/secrets/packages ]; then
    set -a
    . /run/secrets/packages
    set +a
fi
if grep -q 'BEGIN CERTIFICATE' /run/secrets/certificates 2>/dev/null; then
    export PIP_CERT=/run/secrets/certificates SSL_CERT_FILE=/run/secrets/certificates
fi
# The image's user cannot write bytecode beside the code: without it each process compiles all that it imports anew.
export UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
install() { $tools/bin/uv pip install --quiet --python $python "$@"; }
# The requirements of a lock, each with the hashes on the lines that continue it, that are wanted: a condition of awk.
wanted() { awk "/^[a-z]/ { keep = $1 } keep" "$2" >/tmp/wanted.lock; }

case $1 in
    tools) # what installs and builds; the images get none of it
        python -m venv $tools
        $tools/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --require-hashes --no-deps -r requirements/build.lock
        # Without it the images are a fifth larger.
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends binutils >/dev/null; } ||
            echo "image: binutils could not be installed, so packages keep their debug symbols"
        ;;
    packages)
        python -m venv --without-pip $packages
        wanted "!/^($of_torch)==/" requirements/run.lock
        install --require-hashes --no-deps -r /tmp/wanted.lock
        # A third of what was installed: the packages' own tests, and symbols for debuggers. (Bundled libraries, in folders
        # *.libs, were patched after they were linked, which strip does not expect.)
        find $packages -type d -name tests -prune -exec rm -r {} +
        ! command -v strip >/dev/null || find $packages -name '*.cpython-*.so' -exec strip --strip-unneeded {} +
        ;;
    parquet)
        wanted '/^pyarrow==/' requirements/dev.lock
        install --require-hashes --no-deps -r /tmp/wanted.lock
        ;;
    torch)
        wanted "/^($of_torch)==/" requirements/run.lock
        install --require-hashes --no-deps -r /tmp/wanted.lock
        sh requirements/torch.sh $tools/bin/uv $python "$2"
        ;;
    headrace)
        install --no-deps /wheel/*.whl
        ;;
esac
rm -f /tmp/wanted.lock
