"""Play the transcripts in docs/transcripts against a real Warren, and write down what it says.

`python tools/transcripts.py [NAME...]` runs the commands of the pages and writes their output into them; with
`--check` nothing is written, and the exit status is 1 if a command is not there any more or ends otherwise.

A page is its own script. In its `console` blocks a line with `$ ` is typed, lines with `> ` directly below go on
with it, what follows is output, and a last line `[3]` is an exit status other than 0. A comment `<!-- terminal: x -->`
before a block gives it a terminal of its own, where a command stays running once its last recorded line has appeared,
until `$ ^C`. A comment `<!-- needs: host model -->` starts an SSH server and a stand-in model before. Blocks within a
comment are played and not shown.

Ids, fingerprints, ports, paths and the user's name are written as others that stay the same, and are read back
when commands name them. An output that differs only in its numbers stays as it was.
"""

import argparse
import base64
import getpass
import hashlib
import os
import re
import secrets
import select
import shutil
import subprocess
import sys
import termios
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from difflib import unified_diff
from itertools import count
from pathlib import Path
from typing import TypeVar

from client.ports import LOOPBACK, check_port_free
from client.processes import Child, stop
from client.tour.model import start_stand_in
from client.tour.sshd import TourHost
from protocols.errors import AddressInUse

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "transcripts"
T = TypeVar("T")
COLUMNS, LINES = 80, 40
PATIENCE_S = 60.0
"""How long one command may take."""
_USUAL = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
_SAID = 4000
MAIN = "main"
INTERRUPT = "^C"
_BLOCK = re.compile(
    r"(?:<!-- terminal: (?P<terminal>[\w-]+) -->\n+)?```console\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_NEEDS = re.compile(r"<!-- needs: ([\w ]+) -->")
_STATUS = re.compile(r"\[(\d+)\]")
_PROMPT = re.compile(r"\x1e(\d+)\x1e")
_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])")
_TAKEN_BACK = re.compile(r"[^\n]*\n(?:\r|\x1b\[\?25h)*\x1b\[1A\r?\x1b\[2K")
"""A line that the cursor went back to and that was erased, as rich does with a spinner that has done its work."""
_NUMBERS = re.compile(r"\d+(?:[.,:]\d+)*(?: ?(?:[smhd]|ms)\b)?")


@dataclass(frozen=True, slots=True)
class Step:
    """A command, what it printed, and how it ended; 0 too for one that stayed running."""

    command: str
    output: str = ""
    status: int = 0

    @classmethod
    def read(cls, text: str) -> "Iterator[Step]":
        """Yield the steps of a block."""
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            lines = part.rstrip("\n").splitlines()
            more = next((n for n, line in enumerate(lines[1:], 1) if not line.startswith(">")), len(lines))
            command = "\n".join([lines[0], *(line[2:] for line in lines[1:more])])
            output, status = lines[more:], 0
            if output and (found := _STATUS.fullmatch(output[-1])):
                output, status = output[:-1], int(found[1])
            yield cls(command, "\n".join(output).strip("\n"), status)

    def written(self) -> str:
        """Return it as it stands in a block."""
        parts = ["$ " + "\n".join(f"> {line}".rstrip() for line in self.command.split("\n")).removeprefix("> ")]
        if self.output:
            parts.append(self.output)
        if self.status:
            parts.append(f"[{self.status}]")
        return "\n".join(parts) + "\n"

    def merged(self, played: "Step") -> "Step":
        """Return what was played just now, or this one where the two differ in nothing but numbers."""
        same = self.status == played.status and _masked(self.output) == _masked(played.output)
        return self if same else played


def _masked(text: str) -> str:
    return " ".join(_NUMBERS.sub("0", text).split())


class Disguise:
    """Names of this run, and those that stand for them in the pages."""

    def __init__(self, fixed: Sequence[tuple[str, str]]) -> None:
        self._shown = dict(fixed)
        self._numbers: Counter[str] = Counter()
        self._patterns: tuple[tuple[re.Pattern[str], Callable[[str], str]], ...] = (
            (re.compile(r"\b[a-z]{3,5}_[0-9a-f]{32}\b"), self._id),
            (re.compile(r"\bw-[a-z2-7]{20}\b"), self._worker),
            (re.compile(r"SHA256:[A-Za-z0-9+/]{43}"), self._host_key),
            (re.compile(r"\b[0-9a-f]{4}(?:-[0-9a-f]{4}){4}\b"), self._fingerprint),
        )

    def know(self, real: str, shown: str) -> None:
        """Show `shown` for `real` from now on."""
        self._shown[real] = shown

    def put_on(self, text: str) -> str:
        """Return what a page shows for `text`."""
        for pattern, invent in self._patterns:
            for found in pattern.findall(text):
                if found not in self._shown:
                    self._shown[found] = invent(found)
        return self._replaced(text, self._shown)

    def take_off(self, text: str) -> str:
        """Return what `text`, from a page, means in this run."""
        return self._replaced(text, {shown: real for real, shown in self._shown.items()})

    @staticmethod
    def _replaced(text: str, names: dict[str, str]) -> str:
        # What is part of a longer word stays, such as the user's name in a path.
        longest_first = sorted(filter(None, names), key=len, reverse=True)
        pattern = "|".join(rf"(?<!\w){re.escape(name)}(?!\w)" for name in longest_first)
        return re.sub(pattern, lambda found: names[found[0]], text) if pattern else text

    def _id(self, real: str) -> str:
        prefix = real.partition("_")[0]
        self._numbers[prefix] += 1
        return f"{prefix}_0198{self._numbers[prefix]:028x}"

    def _worker(self, real: str) -> str:
        return "w-" + base64.b32encode(self._digest("worker id")).decode().lower()[:20]

    def _host_key(self, real: str) -> str:
        return "SHA256:" + base64.b64encode(self._digest("host")).decode()[:43]

    def _fingerprint(self, real: str) -> str:
        digits = self._digest("worker").hex()[:20]
        return "-".join(digits[start : start + 4] for start in range(0, 20, 4))

    def _digest(self, kind: str) -> bytes:
        self._numbers[kind] += 1
        return hashlib.sha256(f"{kind} {self._numbers[kind]}".encode()).digest()


class Stuck(Exception):
    """A command did not come to its end, or to its last recorded line."""


class Terminal:
    """A shell in a real terminal."""

    def __init__(self, environ: dict[str, str], directory: Path) -> None:
        self._master, slave = os.openpty()
        termios.tcsetwinsize(slave, (LINES, COLUMNS))
        modes = termios.tcgetattr(slave)
        modes[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, modes)
        # The first terminal that a session's leader opens becomes the one that Ctrl-C comes from.
        shell = "exec bash --noprofile --norc --noediting -i <$0 >$0 2>&1"
        prompt = {"PS1": "", "PS2": "", "PROMPT_COMMAND": r"printf '\036%d\036' $?", "HISTFILE": ""}
        self._shell = subprocess.Popen(
            ["sh", "-c", shell, os.ttyname(slave)], env={**environ, **prompt}, cwd=directory, start_new_session=True
        )
        self._read = ""
        self._busy = False
        self._until(_PROMPT.search)
        self._read = ""
        os.close(slave)

    def run(self, command: str) -> tuple[str, int]:
        """Type a command and return what it prints, and how it ends; raises Stuck."""
        if command == INTERRUPT:
            os.write(self._master, b"\x03")
        else:
            os.write(self._master, f"{command}\n".encode())
        found = self._until(_PROMPT.search)
        self._busy = False
        printed, self._read = self._read[: found.start()], self._read[found.end() :]
        return _plain(printed), int(found[1])

    def begin(self, command: str, is_last: Callable[[str], bool]) -> str:
        """Type a command and return what it prints up to the line that is the last; raises Stuck.

        If one is still running, that one's end comes first, and what it had to say until then.
        """
        busy, self._busy = self._busy, True

        def seen(text: str) -> list[str] | None:
            lines = _plain(_PROMPT.sub("", text[: text.rfind("\n") + 1])).splitlines()
            for number, line in enumerate(lines, 1):
                if is_last(line):
                    return lines[:number]
            if len(_PROMPT.findall(text)) > busy:
                raise Stuck("\n".join(["it has ended:", *lines]))
            return None

        os.write(self._master, f"{command}\n".encode())
        lines = self._until(seen)
        self._read = ""
        return "\n".join(lines)

    def close(self) -> None:
        """Hang up, as by closing the window; all that runs there ends."""
        with suppress(OSError, Stuck):
            if self._shell.poll() is None:
                os.write(self._master, b"\x03")
                self._until(_PROMPT.search)
        os.close(self._master)
        self._shell.wait(PATIENCE_S)

    def _until(self, look: Callable[[str], T | None]) -> T:
        deadline = time.monotonic() + PATIENCE_S
        while (found := look(self._read)) is None:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._master], [], [], left)[0]:
                said = _plain(self._read)[-_SAID:]
                raise Stuck(f"it neither ended nor came to its last line in {PATIENCE_S:g} s; it said:\n{said}")
            self._read += os.read(self._master, 65536).decode(errors="replace")
        return found


def _plain(text: str) -> str:
    """Return what stays to be seen on a terminal: without colours, and of a line written anew its last form."""
    text = _TAKEN_BACK.sub("", text.replace("\r\n", "\n"))
    lines = _ESCAPES.sub("", text).split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines).strip("\n")


@dataclass(slots=True)
class Stage:
    """A user's home on this machine, with terminals."""

    home: Path
    disguise: Disguise
    environ: dict[str, str]
    port: int
    terminals: dict[str, Terminal] = field(default_factory=dict)

    def play(self, terminal: str, step: Step) -> Step:
        """Run one step for real."""
        if terminal not in self.terminals:
            # Only where a control plane may be started is its port said: other commands find it by themselves.
            port = {} if terminal == MAIN else {"WARREN_PORT": str(self.port)}
            self.terminals[terminal] = Terminal({**self.environ, **port}, self.home)
        shell, command = self.terminals[terminal], self.disguise.take_off(step.command)
        try:
            if terminal == MAIN or command == INTERRUPT or not step.output:
                output, status = shell.run(command)
                return Step(step.command, self.disguise.put_on(output), status)
            last = _masked(step.output.splitlines()[-1])
            output = shell.begin(command, lambda line: _masked(self.disguise.put_on(line)) == last)
            return Step(step.command, self.disguise.put_on(output))
        except Stuck as stuck:
            raise Stuck(f"$ {step.command}\n{stuck}") from None

    def close(self) -> None:
        """End all that runs in the terminals."""
        for terminal in reversed(self.terminals.values()):
            terminal.close()


@contextmanager
def staged(needs: Sequence[str]) -> Iterator[Stage]:
    """Give a new user's home, with the servers that a page needs beside it."""
    # The home's path is as long as the one that stands for it, so that tables keep their shape.
    home = Path(f"/tmp/w{secrets.token_hex(2)}")
    port = next(port for port in count(8001) if _is_free(port))
    disguise = Disguise([(str(home), "/home/rosa"), (str(port), "8000"), (getpass.getuser(), "rosa")])
    disguise.know(f"Linux {os.uname().release}", "Linux 6.12.48-amd64")
    home.mkdir(mode=0o700)
    children: list[Child] = []
    kept = {name: os.environ[name] for name in ("TMPDIR", "USER") if name in os.environ}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    stage = Stage(home, disguise, {**kept, **_USUAL, "PATH": path, "HOME": str(home)}, port)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, home, ignore_errors=True)
        servers = Path(f"{home}.servers")
        servers.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, servers, ignore_errors=True)
        stack.callback(stop, children)
        if "host" in needs:
            _start_host(stage, servers, children)
        if "model" in needs:
            url = start_stand_in(servers / "model.log", children.append).base_url
            disguise.know(url, "http://127.0.0.1:11434/v1")
        # Last in, first out: what was started last is closed first, the control plane after its workers.
        stack.callback(stage.close)
        yield stage


def _start_host(stage: Stage, directory: Path, children: list[Child]) -> None:
    host = TourHost(directory, directory / "sshd.log")
    children.append(host.child)
    host.start()
    key = stage.home / ".ssh" / "id_ed25519"
    key.parent.mkdir(mode=0o700)
    key.write_text(host.private_key, encoding="utf-8")
    key.chmod(0o600)
    stage.disguise.know(str(host.port), "22022")
    stage.disguise.put_on(host.host_key)  # so that a page may pin it before it has been shown


def _is_free(port: int) -> bool:
    with suppress(AddressInUse):
        check_port_free(LOOPBACK, port)
        return True
    return False


def replayed(page: str) -> str:
    """Return the page with what its commands print and how they end now; raises Stuck."""
    needs = " ".join(_NEEDS.findall(page)).split()
    with staged(needs) as stage:

        def play(block: re.Match[str]) -> str:
            terminal = block["terminal"] or MAIN
            steps = [step.merged(stage.play(terminal, step)) for step in Step.read(block["text"])]
            start, end = (place - block.start() for place in block.span("text"))
            return block[0][:start] + "\n".join(step.written() for step in steps) + block[0][end:]

        return _BLOCK.sub(play, page)


def structure(page: str) -> list[str]:
    """Return the commands of a page, each with its exit status."""
    steps = [step for block in _BLOCK.finditer(page) for step in Step.read(block["text"])]
    return [f"{step.command}  # exits {step.status}" for step in steps]


def differences(name: str, recorded: str, played: str) -> str:
    """Return which commands end otherwise than recorded, empty if none does."""
    told = unified_diff(
        structure(recorded), structure(played), f"{name}, recorded", f"{name}, played", lineterm="", n=1
    )
    return "\n".join(told)


def main(arguments: Sequence[str]) -> int:
    """Play the pages that are named, or all."""
    parser = argparse.ArgumentParser(prog="transcripts.py", description="Play docs/transcripts against a real Warren.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a command ends otherwise")
    parser.add_argument("name", nargs="*", help="a page, such as first-ten-minutes")
    options = parser.parse_args(arguments)
    failed = False
    for path in [PAGES / f"{name}.md" for name in options.name] or sorted(PAGES.glob("*.md")):
        recorded = path.read_text(encoding="utf-8")
        try:
            played = replayed(recorded)
        except Stuck as stuck:
            print(f"{path.stem}: {stuck}", file=sys.stderr)
            failed = True
            continue
        if not options.check:
            path.write_text(played, encoding="utf-8")
        elif difference := differences(path.stem, recorded, played):
            print(difference, file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
