"""Digests of the code that a kept result depends on, so that changed code never uses old results."""

import ast
import hashlib
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parent.parent


def files(*modules: str) -> list[Path]:
    """Return the files of modules of this project and of all of its modules that they import, sorted.

    Only imports at a module's top level are followed. A module that is imported inside a function must be named too.

    >>> [path.stem for path in files("learners.parts.decay")]
    ['state', 'decay', 'portable']
    """
    missing = [name for name in modules if not _path(name).exists()]
    assert not missing, f"no modules of this project: {missing}"
    found: set[Path] = set()
    wanted = set(modules)
    while wanted:
        path = _path(wanted.pop())
        if path in found or not path.exists():
            continue
        found.add(path)
        wanted |= _imported(path.read_bytes())
    return sorted(found)


@cache
def _imported(code: bytes) -> frozenset[str]:
    """Return what code imports at its top level: modules, and names that may be modules."""
    found: set[str] = set()
    for node in ast.parse(code).body:
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found)


def _path(module: str) -> Path:
    return _ROOT / f"{module.replace('.', '/')}.py"


def digest(*modules: str, without: Collection[str] = ()) -> str:
    """Return a digest, in hex, of the paths and texts of all files that `files` finds, but those of some modules."""
    total, left_out = hashlib.sha256(), set(map(_path, without))
    for path in files(*modules):
        if path in left_out:
            continue
        total.update(hashlib.sha256(f"{path.relative_to(_ROOT)}".encode()).digest())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()
