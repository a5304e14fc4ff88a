#!/bin/sh
# Runs mutants of the core against its tests. Called by `make mutate`; arguments go to requirements/mutate.py.
# Cosmic Ray lives in an environment of its own, so that what it needs does not meet what we lock.
set -eu
cd "$(dirname "$0")/.."

env=.venv-mutate
uv=.venv/bin/uv
[ -x "$env/bin/cosmic-ray" ] || {
    echo "mutate: making $env"
    "$uv" venv --quiet --python .venv/bin/python "$env"
    "$uv" pip install --quiet --python "$env/bin/python" 'cosmic-ray==8.7.0'
}
exec "$env/bin/python" requirements/mutate.py "$@"
