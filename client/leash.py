"""Runs a program that ends when its parent does: `python -P -m client.leash PARENT_PID PROGRAM ARGUMENT...`.

The parent may be killed without a chance to stop its children, so the kernel is asked to do it. A program of its
own instead of a `preexec_fn`, because that one may deadlock as soon as the parent has threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, argv: list[str]) -> None:
    """Become `argv`, which gets SIGTERM when the process `parent` ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(0)  # it ended before the kernel was told
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
