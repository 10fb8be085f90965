"""The transcripts in docs/ are what a real Warren says: their commands end as they did when they were recorded."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "transcripts"
QUICK = {"first-ten-minutes", "failing-task"}
"""The others take long, and run only where there is time."""


def _pages() -> list[object]:
    names = sorted(path.stem for path in PAGES.glob("*.md"))
    assert set(names) >= QUICK
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.long]) for name in names]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", _pages())
def test_a_transcript_still_comes_true(page: str) -> None:
    """Every command of the page is there, and ends as the page says."""
    command = [sys.executable, str(ROOT / "tools" / "transcripts.py"), "--check", page]
    played = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert played.returncode == 0, played.stderr
