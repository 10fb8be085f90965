"""Many tasks from a file: read lazily, submitted in chunks, with a progress bar."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from client.http import ApiClient
from client.render import console
from protocols.errors import InvalidInput, WarrenError

CHUNK = 500
"""Tasks of one request, which is one transaction."""


def read_forms(path: Path | None) -> Iterator[Any]:
    """Yield the task forms of a file (None: stdin): a JSON array, `{"tasks": […]}`, one object, or one a line.

    Raises InvalidInput for what is no JSON, with its line.
    """
    with _opened(path) as file:
        first = next((line for line in file if line.strip()), "")
        try:
            head = json.loads(first)
        except ValueError:
            yield from _document(first + file.read())
            return
        if isinstance(head, dict) and "tasks" not in head:
            yield head
            yield from _lines(file)
        else:
            yield from _document(first + file.read())


def submit_all(client: ApiClient, forms: Iterable[Any]) -> list[str]:
    """Submit all forms in chunks and return the new tasks' ids.

    A chunk is submitted whole or not at all; the error says how many tasks went before it.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    rows = iter(forms)
    ids: list[str] = []
    columns = (TextColumn("submitting"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with bar:
        progress = bar.add_task("tasks", total=None)
        try:
            while chunk := list(islice(rows, CHUNK)):
                ids += [str(task["id"]) for task in client.create("/tasks/bulk", {"tasks": chunk})["data"]]
                bar.update(progress, completed=len(ids))
        except WarrenError as error:
            if ids:
                error.hint = f"{len(ids):,} tasks were submitted before; go on with number {len(ids) + 1:,}"
            raise
    if not ids:
        raise InvalidInput("there are no tasks in this file")
    return ids


def _opened(path: Path | None) -> Any:
    if path is None:
        return nullcontext(sys.stdin)
    try:
        return path.expanduser().open(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}") from error


def _lines(file: TextIO) -> Iterator[Any]:
    for number, line in enumerate(file, start=2):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise InvalidInput(f"line {number} is no JSON: {error}") from error


def _document(text: str) -> list[Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"this is neither JSON nor one JSON object a line: {error}") from error
    if isinstance(value, dict):
        value = value.get("tasks", [value])
    if not isinstance(value, list):
        raise InvalidInput("task forms are JSON objects: an array of them, or one a line")
    return value
