"""A process that does not outlive the one that started it, whatever ends that one.

`tied_command` puts a launcher before a command: it ties itself to its parent and then becomes the command. On Linux the
kernel kills the process when its parent ends. The parent is the thread that started the process, so start it from one
that lives as long as the process does. Elsewhere, the command is not tied.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def tied_command(command: Sequence[str]) -> list[str]:
    """Return a command that runs the given one, tied to this process, under the same process id."""
    # -I, -S: this file needs the standard library alone, and starts in 10 ms.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def die_with(parent: int) -> None:
    """Let the kernel kill this process when its parent ends, and end it at once if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # it ended before the signal was asked for
        os._exit(1)


def main(arguments: Sequence[str]) -> None:
    """Tie this process to its parent, the first argument, and become the command that follows."""
    parent, *command = arguments
    die_with(int(parent))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
