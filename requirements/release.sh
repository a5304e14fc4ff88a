#!/bin/sh
# Builds wheel and sdist of this commit into dist/ and checks both. Called by `make release`; it publishes nothing.
#
#   1 refuse a dirty tree, or a version without its section in the changelog
#   2 build the sdist, and the wheel from the sdist
#   3 install the wheel in a bare environment with the locked versions, and use it there
#   4 run the fast tests from the unpacked sdist
#   5 print the sums and what is left to a person
set -eu
cd "$(dirname "$0")/.."

say() { printf 'release: %s\n' "$*"; }
fail() { printf 'release: %s\n' "$@" >&2; exit 1; }

# 1.
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' headrace/__init__.py)
[ -n "$version" ] || fail "headrace/__init__.py: wanted a line __version__ = \"...\""
[ -z "$(git status --porcelain)" ] || fail "the tree is dirty: commit or remove what 'git status' lists"
grep -q "^## \[$version\]" CHANGELOG.md || fail "CHANGELOG.md has no section '## [$version]'"

# 2.
checkout=$(pwd)
python=$checkout/.venv/bin/python uv=$checkout/.venv/bin/uv
bare=$(mktemp -d)
trap 'rm -rf "$bare"' EXIT
trap 'exit 1' HUP INT TERM
say "building headrace $version of commit $(git rev-parse --short HEAD)"
rm -f "dist/headrace-$version"*
build() { told=$("$python" -m hatchling build "$@" 2>&1) || fail "$told"; }
build --target sdist --directory dist
tar -xzf "dist/headrace-$version.tar.gz" -C "$bare"
unpacked=$bare/headrace-$version
(cd "$unpacked" && build --target wheel --directory "$checkout/dist")
wheel=$checkout/dist/headrace-$version-py3-none-any.whl

# 3. Neither the checkout nor a variable of the person who runs this may help: env -i, and another folder.
say "checking the wheel in a bare environment"
"$python" -m venv --without-pip "$bare/venv"
install() { "$uv" pip install --quiet --python "$bare/venv/bin/python" --no-deps "$@"; }
install --require-hashes -r requirements/run.lock
sh requirements/torch.sh "$uv" "$bare/venv/bin/python"
install "$wheel"
"$uv" pip check --quiet --python "$bare/venv/bin/python" || fail "the wheel wants versions that run.lock does not hold"
mkdir "$bare/here"
cp requirements/bare.py "$bare/here"
(cd "$bare/here" && env -i HOME="$bare/here" PATH="$bare/venv/bin:$PATH" python bare.py "$version")

# 4.
say "running the fast tests of the sdist"
(cd "$unpacked" && "$python" -m pytest -n 2 --quiet -m "not slow and not full" tests/unit tests/conformance tests/property)

# 5.
say "built and checked; the sums (SHA-256):"
"$python" -c 'import hashlib, pathlib, sys
for path in map(pathlib.Path, sys.argv[1:]):
    print(hashlib.sha256(path.read_bytes()).hexdigest(), path)' "dist/headrace-$version.tar.gz" "dist/$(basename "$wheel")"
cat <<END
release: what is left to a person:
    git tag --sign v$version --message "Headrace $version"
    git push origin v$version
    .venv/bin/uv publish dist/headrace-$version*
END
