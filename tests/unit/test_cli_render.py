"""What the command prints."""

import json
import re
from datetime import UTC, datetime

import pytest
import yaml

from client.cli.columns import TASKS
from client.cli.worker import worker
from client.render import (
    GAP,
    Column,
    Fit,
    Output,
    Printer,
    count,
    counted,
    elapsed,
    field,
    printable,
    queue_state,
    table,
)

ROWS: list[dict[str, object]] = [
    {"id": "task_1", "state": "dead", "note": "a very long remark " * 20, "labels": ["a", "b"], "ok": True},
    {"id": "task_22", "state": "succeeded", "note": None, "labels": [], "ok": False},
]
COLUMNS = [field("id"), field("state"), field("labels"), field("ok"), field("note")]


def test_a_table_in_a_pipe_is_plain_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there are no colours and nothing is cut."""
    Printer().rows(ROWS, COLUMNS, empty="nothing")
    heading, first, second = capsys.readouterr().out.splitlines()
    assert heading.split() == ["ID", "STATE", "LABELS", "OK", "NOTE"]
    assert first.split()[:4] == ["task_1", "dead", "a,", "b"]
    assert first.count("a very long remark") == 20
    assert second.split() == ["task_22", "succeeded", "no"]
    assert "\x1b" not in heading + first + second


def test_json_is_what_the_server_said(capsys: pytest.CaptureFixture[str]) -> None:
    """--output json prints lists as arrays and things as objects, unchanged; an empty list is []."""
    printer = Printer(Output.JSON)
    printer.rows(ROWS, COLUMNS, empty="nothing")
    assert json.loads(capsys.readouterr().out) == ROWS
    printer.rows([], COLUMNS, empty="nothing")
    assert json.loads(capsys.readouterr().out) == []
    printer.record(ROWS[0])
    assert json.loads(capsys.readouterr().out) == ROWS[0]
    printer.done("done", {"a": "ü"})
    assert capsys.readouterr().out == '{\n  "a": "ü"\n}\n'


def test_an_empty_table_says_what_to_do_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """A list without rows leaves stdout empty and says a word on stderr."""
    Printer().rows([], COLUMNS, empty="no tasks; submit one")
    assert capsys.readouterr() == ("", "no tasks; submit one\n")


def test_a_record_leaves_out_what_has_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    """A thing is printed field by field, without the empty ones."""
    Printer().record({"id": "x", "created_at": "now", "error": None, "pools": [], "tries": 0, "ok": False})
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["id", "x"],
        ["created", "at", "now"],
        ["tries", "0"],
        ["ok", "no"],
    ]


@pytest.mark.parametrize("text", ["\x1b[2J", "\x07", "\x9b1m", "a\rb", "\u202egnp.exe"])
def test_text_from_outside_cannot_act_on_the_terminal(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters in what the server says are shown as escapes, in tables and remarks alike."""
    Printer().rows([{"t": text}], [field("t")], empty="")
    Printer().record({"t": text})
    Printer().remark(text)
    captured = capsys.readouterr()
    assert text not in captured.out + captured.err
    assert captured.out.count(printable(text)) == 2


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        ("2026-01-02T00:00:00Z", "0s"),
        ("2026-01-01T23:59:01Z", "59s"),
        ("2026-01-01T23:01:00Z", "59m"),
        ("2026-01-01T01:00:00+00:00", "23h"),
        ("2025-12-30T01:00:00+01:00", "3d"),
        ("2030-01-01T00:00:00Z", "0s"),
        ("no time", "no time"),
        (None, ""),
    ],
)
def test_elapsed_is_told_in_its_largest_unit(moment: object, shown: str) -> None:
    """A time is shown as how long ago it was, in one unit."""
    assert elapsed(moment, datetime(2026, 1, 2, tzinfo=UTC)) == shown


@pytest.mark.parametrize(("number", "shown"), [(0, "0 tasks"), (1, "1 task"), (1200, "1,200 tasks")])
def test_things_are_counted_in_words(number: int, shown: str) -> None:
    """One is one, and thousands are told apart."""
    assert counted(number, "task") == shown


def test_a_column_may_be_computed(capsys: pytest.CaptureFixture[str]) -> None:
    """A column's text can be any function of the row."""
    Printer().rows([{"a": 2}], [Column("twice", lambda row: row["a"] * 2)], empty="")
    assert capsys.readouterr().out.split() == ["TWICE", "4"]


def test_a_count_that_stopped_at_its_limit_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    """The largest of them did; smaller ones, and all where they are exact, are what they are."""
    columns = [count(name, ("waiting", "delayed")) for name in ("waiting", "delayed")]
    rows = [
        {"waiting": 10_000, "delayed": 7, "counts_are_exact": False},
        {"waiting": 10_000, "delayed": 7, "counts_are_exact": True},
    ]
    Printer().rows(rows, columns, empty="")
    assert capsys.readouterr().out.split() == ["WAITING", "DELAYED", "10,000+", "7", "10,000", "7"]


def test_a_narrow_terminal_gets_whole_ids_and_leaves_out_what_can_be_spared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a narrow terminal no line is broken, ids stay whole, spare columns go first and long texts are cut."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    columns = [field("id"), field("state", fit=Fit.SPARE), field("note", fit=Fit.CUT)]
    Printer().rows(ROWS, columns, empty="")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    assert all(len(line) <= 30 for line in lines)
    assert lines[0].split() == ["ID", "NOTE"]
    assert lines[1].startswith("task_1 ")
    assert lines[1].rstrip().endswith("…")


def test_no_color_is_honoured_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal gets colours unless NO_COLOR is set."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    Printer().rows(ROWS, [field("state")], empty="")
    assert "\x1b[31m" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    Printer().rows(ROWS, [field("state")], empty="")
    assert "\x1b[31m" not in capsys.readouterr().out


def test_a_text_that_folds_goes_on_in_the_next_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sentence that is too long for the terminal is told whole, in several lines of its column."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    rows = [{"id": "a", "what": "it failed, and was given up after that"}]
    Printer().rows(rows, [field("id"), field("what", fit=Fit.FOLD)], empty="")
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    assert all(len(line) <= 30 for line in lines)
    assert " ".join(" ".join(lines[1:]).split()) == "a it failed, and was given up after that"


@pytest.mark.parametrize("output", [Output.JSON, Output.YAML])
def test_values_that_come_one_by_one_can_be_told_apart(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    """A stream of values is JSON on a line each, or YAML in a document each."""
    values = [{"a": "x\ny"}, {"b": [1]}]
    for value in values:
        Printer(output).item(value)
    printed = capsys.readouterr().out
    if output is Output.JSON:
        assert [json.loads(line) for line in printed.splitlines()] == values
    else:
        assert list(yaml.safe_load_all(printed)) == values


def test_what_is_empty_inside_is_left_out_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Within a thing's field only what has a value is told."""
    Printer().record({"error": {"code": "x", "cause": None, "more": []}})
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["error", "code:", "x"]]


WORKER = {
    "id": "w-l4gym27owimehsujgqp2",
    "name": "rabbit-with-a-very-long-name-01",
    "status": "pending",
    "fingerprint": "f38c-4b17-3ce8-2d61-02f3",
    "running": 0,
    "pools": ["default", "gpu"],
    "last_seen_at": "2026-01-31T12:00:00Z",
}


def test_workers_fit_eighty_columns() -> None:
    """A long name gives way, and neither the fingerprint nor a heading is cut."""
    shown = table([WORKER], worker.columns, 80)
    widths = {str(column.header): column.width for column in shown.columns}
    assert sum(width + GAP for width in widths.values() if width) <= 80
    assert widths["FINGERPRINT"] == len(str(WORKER["fingerprint"]))
    assert all((width or 0) >= len(heading) for heading, width in widths.items())


@pytest.mark.parametrize(
    ("queue", "state"),
    [
        ({"paused": True, "consumers": 0}, "paused"),
        ({"paused": False, "consumers": 0}, "no worker"),
        ({"paused": False, "consumers": 2}, ""),
    ],
)
def test_a_queue_says_what_holds_it_up(queue: dict[str, object], state: str) -> None:
    assert queue_state(queue) == state


@pytest.mark.parametrize(
    ("task", "title"),
    [
        ({"title": "nightly", "error": {"message": "no"}, "action": "ssh.exec", "connection": "web-1"}, "nightly"),
        ({"title": None, "error": {"message": "no"}, "action": "ssh.exec", "connection": "web-1"}, "no"),
        ({"title": None, "error": None, "action": "ssh.exec", "connection": "web-1"}, "ssh.exec web-1"),
        (
            {"title": None, "error": None, "action": "llm.chat", "agent": "writer"},
            "llm.chat writer",
        ),
        ({"action": "resize"}, "resize"),
    ],
)
def test_a_task_without_a_title_says_what_it_is(task: dict[str, object], title: str) -> None:
    assert TASKS[-1].text(task) == title
