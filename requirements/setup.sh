#!/bin/sh
# Makes .venv ready, and does nothing where it is ready already. Called by the Makefile; needs a Python and a package index.
#
#   1 find a Python that we support and that works     4 torch, the build that fits this machine
#   2 make .venv, put the installer (uv) into it       5 Headrace itself, editable
#   3 install the locked versions, hashes checked      6 note what was installed
#
# PYTHON=... chooses the interpreter, VENV=... another folder than .venv. Remove the folder to begin anew.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$@" >&2; exit 1; }

venv=${VENV:-.venv}
case $venv in
    .venv | .venv-[0-9.]*) ;;
    *) fail "VENV=$venv: wanted .venv or a name such as .venv-3.13; the folder is removed when it is made anew" ;;
esac
stamp=$venv/headrace-setup
# The path is part of it: a checkout that was moved or copied needs its commands written anew.
wanted="$(cat pyproject.toml requirements/*.lock requirements/torch.txt requirements/setup.sh requirements/torch.sh | cksum) in $(pwd -P)"
# An environment serves until another interpreter is asked for by name.
serves() {
    $venv/bin/python -c '' 2>/dev/null || return
    [ -z "${PYTHON:-}" ] || [ "$PYTHON" = "$(cat $venv/headrace-python 2>/dev/null)" ]
}
if [ "$(cat $stamp 2>/dev/null)" = "$wanted" ] && serves; then
    exit 0
fi

# 1. A name on the PATH proves little: it may be a version manager's shim that fails, or a build without ensurepip.
supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; }
whole() { "$1" -c 'import ctypes, ensurepip, sqlite3, ssl, venv' >/dev/null 2>&1; }
python='' partial=''
for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
    if ! supported "$candidate"; then continue; fi
    if whole "$candidate"; then python=$candidate; break; fi
    partial=$candidate
done
if [ -z "$python" ] && [ -n "$partial" ]; then
    fail "$partial cannot make virtual environments (ensurepip) or lacks a part of its library (ctypes, sqlite3, ssl)." \
         "On Debian and Ubuntu: apt-get install python3-venv. Or name another Python: make PYTHON=/path/to/python3.11"
fi
if [ -z "$python" ]; then
    fail "wanted Python 3.11, 3.12 or 3.13; tried ${PYTHON:-python3.13 python3.12 python3.11 python3 python}: none is one that works." \
         "Install one, or name it: make PYTHON=/path/to/python3.11"
fi

# 2.
if ! serves || ! supported $venv/bin/python || ! $venv/bin/python -c 'import pip' 2>/dev/null; then
    say "making $venv with $("$python" -c 'import platform, sys; print("Python", platform.python_version(), sys.executable)')"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    echo "$python" > $venv/headrace-python
fi
rm -f $stamp
$venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/build.lock

# 3. --no-deps: the lock is complete, and torch (which some may name) comes next.
install() { $venv/bin/uv pip install --quiet --python $venv/bin/python "$@"; }
say "installing the locked packages"
install --require-hashes --no-deps -r requirements/dev.lock

# 4.
sh requirements/torch.sh "$venv/bin/uv" "$venv/bin/python"

# 5. What builds it came with the lock: nothing is fetched here.
install --no-deps --no-build-isolation --editable .

# 6.
echo "$wanted" > $stamp
say "ready: $venv/bin/headrace"
