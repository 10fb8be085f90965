"""What the shell would offer for a command line."""

import os
import subprocess
import sys


def completions(line: str) -> list[str]:
    """Return what bash offers when the tab key is pressed at the end of `line`; AssertionError if anything is said."""
    environ = {
        **os.environ,
        "_WARREN_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split(" ")) - 1),
    }
    command = [sys.executable, "-m", "client"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stderr == ""
    return ended.stdout.split()
