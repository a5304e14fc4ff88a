#!/bin/sh
# Runs `make check` with each named version of Python that is on this machine, in an environment of its own, and lists
# which versions were found: sh requirements/pythons.sh 3.12 3.13
set -u
cd "$(dirname "$0")/.."

say() { printf 'pythons: %s\n' "$*"; }
# A name on the PATH may be a version manager's shim that fails: the interpreter itself is asked for its version.
is() { "$1" -c "import ensurepip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '$2')" >/dev/null 2>&1; }

passed='' failed='' missing=''
for version in "$@"; do
    found=''
    for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python3; do
        if is "$candidate" "$version"; then found=$candidate; break; fi
    done
    if [ -z "$found" ]; then
        say "Python $version: not found on the PATH or under ${PYENV_ROOT:-$HOME/.pyenv}/versions"
        missing="$missing $version"
        continue
    fi
    say "Python $version: $found"
    if make --no-print-directory check VENV=".venv-$version" PYTHON="$found"; then
        passed="$passed $version"
    else
        failed="$failed $version"
    fi
done
say "passed:${passed:- none}; failed:${failed:- none}; not found:${missing:- none}"
[ -z "$failed" ]
