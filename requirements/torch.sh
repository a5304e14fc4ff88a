#!/bin/sh
# Installs the pinned torch beside a Python, in the build that fits this machine: sh requirements/torch.sh UV PYTHON [BUILD]
#
# BUILD is one of uv's --torch-backend: auto (the default), cpu, cu130 ... The package index may hold one build only (for
# x86-64 Linux the CUDA build, 5.4 GB, which also runs on a CPU). PyTorch's own index holds one for each kind of machine;
# from here it may be out of reach, which is known after 10 s.
set -eu
uv=$1 python=$2 build=${3:-auto}
torch=$(sed -n 's/^torch==//p' "$(dirname "$0")/torch.txt")

say() { printf 'setup: %s\n' "$*"; }
install() { "$uv" pip install --quiet --python "$python" "$@"; }
if "$python" -c 'import importlib.metadata as m, sys
sys.exit(m.version("torch").split("+")[0] != sys.argv[1])' "$torch" 2>/dev/null; then
    exit 0
fi
say "installing torch $torch: asking PyTorch's own index for the build $build"
if ! UV_HTTP_TIMEOUT=10 UV_HTTP_RETRIES=0 install --torch-backend="$build" "torch==$torch" 2>/dev/null; then
    say "PyTorch's own index is out of reach; taking the package index's build (large; it runs on a CPU too)"
    install "torch==$torch"
fi
