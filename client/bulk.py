"""Many tasks from a file: read lazily, submitted in chunks, with a progress bar."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import StringIO
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from client.documents import YAML_SUFFIXES, read_yaml
from client.http import ApiClient
from client.render import console
from protocols.errors import InvalidInput, WarrenError

CHUNK = 500
"""Tasks of one request, which is one transaction."""
LINES_SUFFIXES = frozenset({".jsonl", ".ndjson"})


@dataclass(frozen=True, slots=True)
class Forms:
    """Task forms, and how many they are if that is known before they are read."""

    rows: Iterator[Any]
    total: int | None = None


@contextmanager
def read_forms(path: Path | None) -> Iterator[Forms]:
    """Give the task forms of a file (None: stdin), which is read as its suffix says, else as it looks.

    JSON: an array, `{"tasks": […]}` or one object. YAML: the same, also in several documents. Or one JSON object a
    line; those are read while they are used. Raises InvalidInput for what is none of these, with its line.
    """
    try:
        with _opened(path) as file:
            yield _forms(file, path.suffix.lower() if path else "")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path or 'stdin'} is no text in UTF-8: {error.reason}") from error


def submit_all(client: ApiClient, forms: Forms) -> list[str]:
    """Submit all forms in chunks and return the new tasks' ids.

    A chunk is submitted whole or not at all; the error says how many tasks went before it.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    ids: list[str] = []
    columns = (TextColumn("submitting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar:
        progress = bar.add_task("tasks", total=forms.total)
        try:
            while chunk := list(islice(forms.rows, CHUNK)):
                ids += [str(task["id"]) for task in client.create("/tasks/bulk", {"tasks": chunk})["data"]]
                bar.update(progress, completed=len(ids))
        except WarrenError as error:
            if ids:
                error.hint = f"{len(ids):,} tasks were submitted before; go on with number {len(ids) + 1:,}"
            raise
    if not ids:
        raise InvalidInput("there are no tasks in this file")
    return ids


def _opened(path: Path | None) -> AbstractContextManager[TextIO]:
    if path is None:
        return nullcontext(sys.stdin)
    try:
        return path.expanduser().open(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error


def _forms(file: TextIO, suffix: str) -> Forms:
    if suffix in YAML_SUFFIXES:
        return _whole(read_yaml(file))
    start = file.tell() if file.seekable() else None
    head = _to_first_text(file)
    if suffix in LINES_SUFFIXES or _is_form("".join(head)):
        if start is None:
            return Forms(_lines(chain(head, file)))
        total = sum(1 for line in chain(head, file) if line.strip())
        file.seek(start)
        return Forms(_lines(file), total)
    text = "".join(head) + file.read()
    if suffix == ".json" or text.lstrip().startswith(("{", "[")):
        return _whole([_parsed(text, "this is neither JSON nor one JSON object a line")])
    return _whole(read_yaml(StringIO(text)))


def _to_first_text(file: TextIO) -> list[str]:
    """Return the lines up to the first that is not empty."""
    head: list[str] = []
    for line in file:
        head.append(line)
        if line.strip():
            break
    return head


def _is_form(line: str) -> bool:
    try:
        value = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, dict) and "tasks" not in value


def _whole(documents: Iterable[Any]) -> Forms:
    found: list[Any] = []
    for document in documents:
        value = document.get("tasks", [document]) if isinstance(document, dict) else document
        if not isinstance(value, list):
            raise InvalidInput("task forms are objects: a list of them, or one a document or line")
        found += value
    return Forms(iter(found), len(found))


def _lines(lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _parsed(line, f"line {number} is no JSON")


def _parsed(text: str, complaint: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"{complaint}: {error}") from error
