"""What the command prints: tables, records and trees for people, JSON and YAML for programs."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from client.documents import to_json, to_yaml

if TYPE_CHECKING:
    from rich.console import Console, OverflowMethod, RenderableType
    from rich.table import Table

Json = Mapping[str, Any]
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Would move the cursor, recolour the terminal, or turn the text around."""
_STYLES = {
    "succeeded": "green",
    "online": "green",
    "approved": "green",
    "running": "cyan",
    "queued": "cyan",
    "pending": "yellow",
    "scheduled": "yellow",
    "suspect": "yellow",
    "draining": "yellow",
    "paused": "yellow",
    "busy": "cyan",
    "idle": "green",
    "dead": "red",
    "lost": "red",
    "rejected": "red",
    "revoked": "red",
    "cancelled": "dim",
    "offline": "dim",
    "healthy": "green",
    "degraded": "red",
    "ok": "green",
    "warning": "yellow",
    "failed": "red",
    "no worker": "yellow",
}
GAP = 2
READABLE = 24
"""Characters to which a text may be cut before whole columns are left out."""
SHORTEST = 8
"""Characters to which a text may be cut when there are no more columns to leave out."""
WIDE = 1_000_000
"""Characters of a line that goes into a file or a pipe, where nothing is cut."""


class Output(StrEnum):
    """How to print data."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class Fit(StrEnum):
    """What happens to a column when the terminal is too narrow for all of them."""

    WHOLE = "whole"
    CUT = "cut"
    """Its texts are shortened."""
    FOLD = "fold"
    """Its texts go on in the next line."""
    SPARE = "spare"
    """It is left out, the last one first."""


_FLEXIBLE = (Fit.CUT, Fit.FOLD)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its heading, and a row's text for it."""

    heading: str
    text: Callable[[Json], object]
    fit: Fit = Fit.WHOLE


def field(name: str, heading: str | None = None, fit: Fit = Fit.WHOLE) -> Column:
    """Return the column of the field `name`."""
    return Column(heading or name.replace("_", " "), lambda row: row.get(name), fit)


def count(name: str, among: Sequence[str], fit: Fit = Fit.WHOLE) -> Column:
    """Return the column of a count, one of those (`among`) that `counts_are_exact` is about."""
    return Column(name, lambda row: at_least(row, row[name], [row[one] for one in among]), fit)


def at_least(row: Json, number: int, among: Iterable[int]) -> str:
    """Return a count of a row as text. If its counts are not exact, the largest ones are more than they say."""
    return f"{number:,}+" if is_least(row, number, among) else f"{number:,}"


def is_least(row: Json, number: int, among: Iterable[int]) -> bool:
    """Return whether there may be more than this count says."""
    return not row.get("counts_are_exact", True) and number == max(among)


def age(name: str, heading: str, fit: Fit = Fit.WHOLE) -> Column:
    """Return a column that says how long ago the time in the field `name` was."""
    return Column(heading, lambda row: elapsed(row.get(name)), fit)


class Printer:
    """Prints data to stdout in one of the three forms, and remarks to stderr."""

    def __init__(self, output: Output = Output.TABLE) -> None:
        self._output = output

    @property
    def for_programs(self) -> bool:
        """Whether a program will read what is printed."""
        return self._output is not Output.TABLE

    def rows(self, items: Iterable[Json], columns: Sequence[Column], *, empty: str) -> None:
        """Print a list; `empty` is the remark that stands in for a table without rows."""
        found = list(items)
        if self.for_programs:
            self.data(found)
        elif not found:
            self.remark(empty)
        else:
            show(table(found, columns, console().width))

    def record(self, item: Json) -> None:
        """Print one thing with all its fields that have a value."""
        if self.for_programs:
            self.data(item)
            return
        from rich.table import Table

        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in item.items():
            if _says(value):
                table.add_row(name.replace("_", " "), _styled(value))
        show(table)

    def tree(self, root: Json, label: Callable[[Json], Sequence[object]]) -> None:
        """Print what hangs together by `children`; `label` tells the parts of one thing's line."""
        if self.for_programs:
            self.data(root)
            return
        from rich.tree import Tree

        top = Tree(_line(label(root)), guide_style="dim")
        left = [(top, child) for child in root.get("children") or []]
        while left:
            branch, item = left.pop(0)
            grown = branch.add(_line(label(item)))
            left += [(grown, child) for child in item.get("children") or []]
        show(top)

    def done(self, sentence: str, item: Any) -> None:
        """Say that something was done; programs get the thing itself."""
        if self.for_programs:
            self.data(item)
        else:
            print(printable(sentence))

    def remark(self, text: str) -> None:
        """Say something that is no data."""
        print(printable(text), file=sys.stderr)

    def item(self, value: Any) -> None:
        """Print one of many values that come one after the other: JSON on a line, or a document of YAML."""
        print(
            f"---\n{to_yaml(value)}" if self._output is Output.YAML else json.dumps(value, ensure_ascii=False),
            flush=True,
        )

    def data(self, value: Any) -> None:
        """Print a value as a program reads it: as YAML if that was asked for, else as JSON."""
        print(to_yaml(value) if self._output is Output.YAML else to_json(value))


def table(rows: Sequence[Json], columns: Sequence[Column], width: int, title: str | None = None) -> "Table":
    """Lay rows out in so many characters; columns give way as their `fit` says."""
    from rich.table import Table

    laid = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, GAP, 0, 0),
        header_style="dim",
    )
    widths = _fit(rows, columns, width)
    shown = [column for column in columns if column in widths]
    for column in shown:
        folds = column.fit is Fit.FOLD
        overflow: OverflowMethod = "fold" if folds else "ellipsis"
        laid.add_column(column.heading.upper(), no_wrap=not folds, overflow=overflow, width=widths[column])
    for row in rows:
        laid.add_row(*(_styled(column.text(row), flat=True) for column in shown))
    return laid


def _fit(rows: Sequence[Json], columns: Sequence[Column], room: int) -> dict[Column, int]:
    """Return the columns that there is room for, each with its width."""
    natural = {
        column: max([len(column.heading), *(len(_flat(column.text(row))) for row in rows)]) for column in columns
    }
    widths = {column: min(width, READABLE) if column.fit in _FLEXIBLE else width for column, width in natural.items()}
    spare = [column for column in columns if column.fit is Fit.SPARE]
    while spare and sum(widths.values()) + GAP * len(widths) > room:
        del widths[spare.pop()]
    left = room - sum(widths.values()) - GAP * len(widths)
    for column in [column for column in widths if column.fit in _FLEXIBLE]:
        width = max(min(natural[column], SHORTEST), min(natural[column], widths[column] + left))
        left -= width - widths[column]
        widths[column] = width
    return widths


def console(*, stderr: bool = False) -> "Console":
    """Return a console that colours for a terminal only, and honours NO_COLOR."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(
        stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=False, width=None if terminal else WIDE
    )


def show(shown: "RenderableType") -> None:
    """Print something laid out to stdout."""
    target = console()
    if target.is_terminal:
        target.print(shown)
        return
    with target.capture() as captured:
        target.print(shown)
    # The padding of the last column would be thousands of spaces here.
    print(*(line.rstrip() for line in captured.get().splitlines()), sep="\n")


def printable(text: str) -> str:
    """Return `text` with the characters that would act on a terminal shown as escapes."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def counted(number: int, noun: str) -> str:
    """Return so many things, such as `1 task` or `1,200 tasks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def elapsed(moment: object, now: datetime | None = None) -> str:
    """Return how long ago an RFC 3339 time was, in its largest unit, such as `5m`."""
    if not isinstance(moment, str):
        return ""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    seconds = int(((now or datetime.now(UTC)) - then.astimezone(UTC)).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"


def queue_state(queue: Json) -> str:
    """Return what keeps a queue from starting anything; empty if nothing does."""
    if queue.get("paused"):
        return "paused"
    return "" if queue.get("consumers") else "no worker"


def style(value: object) -> str:
    """Return the style in which a word such as a state is shown, empty for others."""
    return _STYLES.get(str(value), "")


def _says(value: object) -> bool:
    return value is not None and value not in ("", [], {})


def _flat(value: object) -> str:
    return " ".join(_text(value).split())


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return printable(", ".join(value))
    if isinstance(value, dict):
        return "\n".join(f"{name.replace('_', ' ')}: {_flat(inner)}" for name, inner in value.items() if _says(inner))
    if isinstance(value, list):
        return printable(json.dumps(value, ensure_ascii=False))
    return printable(str(value))


def _line(parts: Sequence[object]) -> Any:
    from rich.text import Text

    return Text("  ").join(_styled(part, flat=True) for part in parts if part)


def _styled(value: object, *, flat: bool = False) -> Any:
    from rich.text import Text

    return Text(_flat(value) if flat else _text(value), style=style(value))
