"""docs/cli.md is what the command says of itself."""

import re

import pytest

from client.cli.commands import COMMANDS
from protocols.names import ExitCode
from tools.cli_reference import TARGET, main, reference


def test_the_page_is_current() -> None:
    """Who changes a command writes its page anew: python tools/cli_reference.py."""
    assert TARGET.read_text(encoding="utf-8") == reference(), "docs/cli.md is stale: python tools/cli_reference.py"
    assert main(["--check"]) == 0


def test_the_page_has_every_command_and_exit_status() -> None:
    """No command is left out, nor a status with which one may end."""
    page = reference()
    assert [name for name in COMMANDS if f"\n## warren {name}\n" not in page] == []
    told = {int(status) for status in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}
    assert told == {*map(int, ExitCode), 130}


def test_the_page_does_not_depend_on_where_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a narrow terminal, and with Warren's variables set, it is the same."""
    page = reference()
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("WARREN_URL", "http://elsewhere:1")
    monkeypatch.setenv("WARREN_PORT", "9000")
    assert reference() == page
