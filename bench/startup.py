"""How long the `warren` command takes to say its help: the whole, each noun's, and some commands that ask a server.

    sh ./dev bench startup [ROUNDS]       (default: 7)

CPU and wall time of whole processes, the least of the rounds, with compiled modules. The peer, in the same run, is
Python itself, and a program that does nothing but import Typer.
"""

import os
import subprocess
import sys
import tempfile
import time

from client.cli.commands import COMMANDS

PEERS = {"python -c pass": ["-c", "pass"], "python, importing typer": ["-c", "import typer"]}


def main() -> None:
    """Measure and print the table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    commands = {"warren --help": ["-m", "client", "--help"]} | {
        f"warren {name} --help": ["-m", "client", name, "--help"] for name in COMMANDS
    }
    print("| command | CPU, ms | wall, ms |\n|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="warren-bench-") as cache:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for name, arguments in {**PEERS, **commands}.items():
            spent = [_once(arguments, environment) for _ in range(rounds)]
            cpu, wall = (min(one[part] for one in spent) * 1000 for part in (0, 1))
            print(f"| `{name}` | {cpu:.0f} | {wall:.0f} |", flush=True)


def _once(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Return the seconds of CPU and of wall time that one process took."""
    before, began = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
    after, ended = os.times(), time.perf_counter()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return cpu, ended - began


if __name__ == "__main__":
    main()
