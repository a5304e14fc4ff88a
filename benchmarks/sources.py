"""Which code a kept figure follows from, so that changed code never meets old answers."""

import ast
import hashlib
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parent.parent


def files(*modules: str) -> list[Path]:
    """Return the files of modules of this project, and of all of its modules that they import, in order.

    Only imports at a module's top are followed: who imports late, inside a function, names those modules too.

    >>> [path.stem for path in files("learners.decay")]
    ['state', 'decay']
    """
    found: set[Path] = set()
    wanted = set(modules)
    while wanted:
        path = _ROOT / f"{wanted.pop().replace('.', '/')}.py"
        if path in found or not path.exists():
            continue
        found.add(path)
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ImportFrom):
                wanted |= {f"{node.module}", *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
    return sorted(found)


def digest(*modules: str) -> str:
    """Return a digest, in hex, of the text of all that `files` finds; other texts, another digest."""
    told = hashlib.sha256()
    for path in files(*modules):
        told.update(hashlib.sha256(f"{path.relative_to(_ROOT)}".encode()).digest())
        told.update(hashlib.sha256(path.read_bytes()).digest())
    return told.hexdigest()
