"""The documentation says what the code does: error codes, contract entries, setting names."""

import re
from collections import Counter
from pathlib import Path

import pytest

import broker.api.app
import client.cli.errors
import client.sdk.errors
import client.tour.story
import worker.actions.registry
import worker.children
import worker.session
from protocols.errors import WarrenError

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_FAILURE = re.compile(r'(?:FailureClass\.[A-Z]+|PROVIDER|THROTTLED|QUOTA|CREDENTIAL|REQUEST|LOCAL),\s*"([a-z_]+)"')
_REFUSED = re.compile(r'Refused\("([a-z_]+)"')
LOADED = (
    broker.api.app,
    client.sdk.errors,
    client.cli.errors,
    client.tour.story,
    worker.actions.registry,
    worker.children,
    worker.session,
)
"""Modules with errors of their own, imported so that the tree is whole."""


def tree(kind: type[WarrenError]) -> set[str]:
    return {kind.code}.union(*(tree(inner) for inner in kind.__subclasses__()))


def failure_codes() -> set[str]:
    sources = [path.read_text() for path in (ROOT / "worker").rglob("*.py")]
    return {code for source in sources for pattern in (_FAILURE, _REFUSED) for code in pattern.findall(source)}


def documented_codes() -> set[str]:
    rows = [line for line in (DOCS / "troubleshooting.md").read_text().splitlines() if line.startswith("| `")]
    return {code for row in rows for code in re.findall(r"`([a-z_]+)`", row.split("|")[1])}


def test_every_error_code_has_its_row() -> None:
    assert LOADED
    assert tree(WarrenError) - documented_codes() == set()


def test_every_failure_code_has_its_row() -> None:
    assert len(failure_codes()) > 30
    assert failure_codes() - documented_codes() == set()


def contract_rows() -> list[tuple[str, str, str]]:
    rows = re.findall(r"^\| `([A-Z]+) (\S+)` \| (\w+) \|", (DOCS / "api.md").read_text(), re.MULTILINE)
    return [(method, path, status) for method, path, status in rows]


def test_the_contract_is_listed_whole() -> None:
    """156 HTTP entries and one WebSocket, each once, and the counts that the page tells."""
    rows = contract_rows()
    assert len(rows) == len({row[:2] for row in rows}) == 157
    counts = Counter(status for _, _, status in rows)
    told = f"The counts: {counts['served']} served, {counts['planned']} planned, {counts['out']} out."
    assert told in " ".join((DOCS / "api.md").read_text().split())


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_a_page_has_one_title(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1
