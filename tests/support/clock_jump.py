"""Runs a program on a machine whose wall clock jumps; monotonic time goes on undisturbed.

    python -m tests.support.clock_jump PROGRAM FILE

runs PROGRAM as its `-m` would, with `time.time` and `time.time_ns` ahead by the seconds that FILE says.
"""

import runpy
import sys
import time
from pathlib import Path


def jump(offset: Path) -> None:
    """Shift this process's wall clock by what the file says, from now on."""
    true_time_ns = time.time_ns

    def time_ns() -> int:
        try:
            return true_time_ns() + int(float(offset.read_text()) * 1e9)
        except (FileNotFoundError, ValueError):
            return true_time_ns()

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


if __name__ == "__main__":
    program, file = sys.argv[1:]
    jump(Path(file))
    sys.argv = [program]
    runpy.run_module(program, run_name="__main__", alter_sys=True)
