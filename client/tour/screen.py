"""How the tour looks: numbered steps, ticks, wall times, and live output behind a rule."""

import codecs
import re
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from client.render import printable

if TYPE_CHECKING:
    from rich.console import Console

INDENT = "    "
RULE = INDENT + "│ "
WIDEST = 100
_WORD = re.compile(r"\n|[^\S\n]+|\S+")


class Screen:
    """Prints a tour, on a terminal with colours, else as plain text."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._number = 0
        self._started = time.monotonic()

    def title(self, text: str) -> None:
        """Print the first line."""
        self._console.print(text, style="bold")

    def step(self, title: str) -> None:
        """Begin the next numbered step."""
        self._number += 1
        self._started = time.monotonic()
        self._console.print()
        self._console.print(f"{self._number:>2}  {printable(title)}", style="bold")

    def say(self, text: str, style: str = "dim") -> None:
        """Print a remark on the current step."""
        for line in printable(text).splitlines():
            for part in self._wrapped(line):
                self._console.print(part, style=style)

    def tick(self, text: str) -> None:
        """Print something that has been reached, and how long the step has taken so far."""
        self._mark("✓", "green", text)

    def cross(self, text: str) -> None:
        """Print something that has gone wrong, and how long the step has taken so far."""
        self._mark("✗", "red", text)

    def lines(self, rows: list[tuple[str, str]]) -> None:
        """Print commands with what each of them does."""
        widest = max(len(command) for command, _ in rows)
        room = self._console.width - len(INDENT) - widest - 3
        for command, meaning in rows:
            self._console.print(INDENT + command.ljust(widest), style="cyan", end="")
            self._console.print(f"   {meaning}" if len(meaning) <= room else "", style="dim")

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show on a terminal that something is going on."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(f"  {text}", spinner="dots", spinner_style="dim"):
            yield

    @contextmanager
    def output(self) -> Iterator["LiveText"]:
        """Give a place for output that is shown as it arrives."""
        live = LiveText(self._console)
        try:
            yield live
        finally:
            live.close()

    def _mark(self, mark: str, colour: str, text: str) -> None:
        first, *rest = printable(text).splitlines() or [""]
        took = time.monotonic() - self._started
        self._console.print(f"{INDENT}{mark} ", style=colour, end="")
        self._console.print(first, end="")
        self._console.print(f"  {took:.1f} s", style="dim")
        self.say("\n".join(rest))

    def _wrapped(self, line: str) -> list[str]:
        return textwrap.wrap(
            line,
            self._console.width - 1,
            initial_indent=INDENT,
            subsequent_indent=INDENT + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        )


class LiveText:
    """Text that arrives in pieces, wrapped between words and set off by a rule."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._room = min(console.width, WIDEST) - len(RULE)
        self._column: int | None = None
        self._space = ""
        """Printed only when a word follows on the same line."""

    def write(self, data: bytes) -> None:
        """Show a piece."""
        for word in _WORD.findall(printable(self._decoder.decode(data))):
            self._put(word)
        self._console.file.flush()

    def close(self) -> None:
        """End the last line."""
        self._space = ""
        if self._column is not None:
            self._console.print()
            self._column = None

    def _put(self, word: str) -> None:
        if word == "\n":
            self._begin_line()
            self.close()
        elif word.isspace():
            self._space = word
        else:
            if self._column and self._column + len(self._space) + len(word) > self._room:
                self.close()
            self._begin_line()
            self._console.print(self._space + word, end="", soft_wrap=True)
            self._column = (self._column or 0) + len(self._space) + len(word)
            self._space = ""

    def _begin_line(self) -> None:
        if self._column is None:
            self._console.print(RULE, style="dim", end="")
            self._column = 0
