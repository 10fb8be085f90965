"""`warren doctor` and `warren top`, as people run them: on a real Warren, in a real terminal."""

import json
import os
import pty
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.warren import COMMAND, Warren, environ, until, warren_up


@pytest.fixture(scope="module")
def warren(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warren]:
    with warren_up(tmp_path_factory.mktemp("doctor") / "data") as running:
        yield running


def checks(warren: Warren, **environment: str) -> dict[str, dict[str, str]]:
    found = warren.run("doctor", "-o", "json", **environment)
    return {check["name"]: check for check in json.loads(found.stdout)}


def test_a_sound_installation_has_nothing_to_mend(warren: Warren) -> None:
    """Everything is looked at and nothing is wrong, in the table too."""
    found = checks(warren)
    assert {check["verdict"] for check in found.values()} == {"ok"}, found
    assert {"permissions", "disk", "clock", "version", "key", "workers", "queues"} <= found.keys()
    table = warren.run("doctor")
    assert table.returncode == 0
    assert "1 online of 1" in table.stdout


def test_what_is_wrong_comes_with_what_to_change(warren: Warren) -> None:
    """A key that others may read fails, with the command that mends it; a misspelt setting is a warning."""
    key = warren.data_dir / "worker.key"
    key.chmod(0o644)
    try:
        found = warren.run("doctor", "-o", "json", WARREN_PROT="1")
    finally:
        key.chmod(0o600)
    named = {check["name"]: check for check in json.loads(found.stdout)}
    assert found.returncode == 1
    assert named["permissions"]["verdict"] == "failed"
    assert f"chmod 600 {key}" in named["permissions"]["advice"]
    assert named["settings of the broker"]["verdict"] == "warning"
    assert "WARREN_PROT" in named["settings of the broker"]["detail"]


def test_a_setting_that_would_stop_the_start_is_named(warren: Warren) -> None:
    """It is the control plane itself that says so, as it would at its start."""
    named = checks(warren, WARREN_SWEEP_S="soon")
    assert named["settings of the broker"]["verdict"] == "failed"
    assert "WARREN_SWEEP_S" in named["settings of the broker"]["detail"]


def test_a_pause_and_an_unserved_pool_are_warnings(warren: Warren) -> None:
    """Both keep tasks waiting, and neither is an error."""
    with warren.client() as client:
        client.post("/queues/q.t.default.ssh/pause")
        paused = checks(warren)["queues"]
        task = client.post("/tasks", {"action": "nothing", "pool": "nobody"})
        unserved = checks(warren)["queues"]
        client.post(f"/tasks/{task['id']}/cancel")
        client.post("/queues/q.t.default.ssh/resume")
    assert (paused["verdict"], "warren queue resume" in paused["advice"]) == ("warning", True)
    assert (unserved["verdict"], "q.t.nobody.python" in unserved["detail"]) == ("warning", True)


def test_the_invariant_is_proved_on_request(warren: Warren) -> None:
    found = warren.run("doctor", "--tasks")
    assert found.returncode == 0
    assert "every unfinished task has an owner" in found.stdout


def test_without_a_control_plane_it_says_so(warren: Warren, tmp_path: Path) -> None:
    """What can be looked at is looked at all the same."""
    found = warren.run("doctor", "--url", "http://127.0.0.1:9", "-o", "json", WARREN_API_KEY="x")
    named = {check["name"]: check for check in json.loads(found.stdout)}
    assert found.returncode == 1
    assert named["control plane"]["verdict"] == "failed"
    assert named["permissions"]["verdict"] == "ok"


def test_top_once_fits_a_pipe(warren: Warren) -> None:
    """Without a terminal it looks once, and programs get data."""
    text = warren.run("top").stdout
    assert "q.t.default.ssh" in text
    assert "1 worker" in text
    data = json.loads(warren.run("top", "-o", "json").stdout)
    assert {"tasks", "queues", "workers"} <= data.keys()


def test_top_is_live_in_a_terminal(warren: Warren) -> None:
    """A task that is submitted while it runs shows up; Ctrl-C ends it and leaves the terminal as it was."""
    main, secondary = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "top", "--interval", "0.5"],
        env={**environ(warren.data_dir), "COLUMNS": "100", "LINES": "30", "TERM": "xterm"},
        stdin=secondary,
        stdout=secondary,
        stderr=secondary,
        start_new_session=True,
    )
    os.close(secondary)
    screen = _Screen(main)
    try:
        until("the first picture", lambda: "q.t.default.ssh" in screen.text)
        with warren.client() as client:
            task = client.post("/tasks", {"action": "nothing", "pool": "elsewhere"})
            until("the new queue", lambda: "q.t.elsewhere.python" in screen.text)
            client.post(f"/tasks/{task['id']}/cancel")
        process.send_signal(2)
        assert process.wait(20) == 130
        assert "\x1b[?1049l" in screen.raw  # back from the alternate screen
    finally:
        process.kill()
        process.wait()
        screen.close()


class _Screen:
    """Everything that was written to a terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.raw = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)

    def close(self) -> None:
        self._thread.join(10)
        os.close(self._descriptor)

    def _read(self) -> None:
        try:
            while data := os.read(self._descriptor, 65536):
                self.raw += data.decode(errors="replace")
        except OSError:
            return  # the other side has gone
