"""What a worker promises when its session breaks, is refused, or brings nonsense."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from protocols.errors import Unauthenticated, WarrenError, WorkerRefused
from protocols.frames import Cancel, Lanes, Refused, Welcome, down_codec
from protocols.states import Effect, OutcomeKind
from tests.support.control_plane import PYTHON_LANE, ControlPlane
from tests.support.worker_agent import running_agent, settings_for
from worker import session as session_module
from worker.agent import Agent
from worker.identity import StateDir
from worker.session import SessionRefused


@pytest.fixture
async def plane() -> AsyncIterator[ControlPlane]:
    async with ControlPlane() as plane:
        yield plane


async def run_until_it_fails(plane: ControlPlane, folder: Path) -> WarrenError:
    settings = settings_for(plane, folder)
    with StateDir(settings.state_dir) as state, pytest.raises(WarrenError) as caught:
        async with asyncio.timeout(60):
            await Agent(settings, state, state.identity()).run()
    return caught.value


async def test_registration_says_who_the_worker_is(plane: ControlPlane, tmp_path: Path) -> None:
    """Registration carries the wished pools, the machine's size and keys that belong to its signature."""
    async with running_agent(plane, tmp_path, name="alpha", pools="one,two"):
        form = plane.registrations[0]
        assert (form["name"], form["pools"]) == ("alpha", ["one", "two"])
        assert form["cpu_cores"] >= 1
        assert form["memory_total_mb"] > 0
        assert form["max_agents"] == 32 + 16 + 4 + 4
        assert {"llm.chat", "ssh.exec", "add"} <= set(plane.hellos[0].actions)


async def test_a_pending_worker_waits_for_its_approval(plane: ControlPlane, tmp_path: Path) -> None:
    """While it is pending the worker asks again as told, and works once it is approved."""
    plane.refusal = Refused(code="worker_pending", message="waits for approval", retry_after_s=0.1)

    async def approve() -> None:
        await plane.until(lambda: len(plane.hellos) >= 2)
        plane.refusal = None

    approving = asyncio.create_task(approve())
    async with running_agent(plane, tmp_path):
        await approving
        await plane.outcome_of(plane.submit("add", 1, 2))


async def test_a_revoked_worker_ends(plane: ControlPlane, tmp_path: Path) -> None:
    """A refusal without a time to come back ends the worker."""
    plane.refusal = Refused(code="worker_refused", message="revoked")
    assert isinstance(await run_until_it_fails(plane, tmp_path), SessionRefused)


async def test_a_worker_that_is_revoked_while_it_works_ends(plane: ControlPlane, tmp_path: Path) -> None:
    """A refusal in the middle of a session ends the worker as well."""

    async def revoke() -> None:
        await plane.until(lambda: plane.connected)
        plane.send(Refused(code="worker_refused", message="revoked"))

    revoking = asyncio.create_task(revoke())
    assert isinstance(await run_until_it_fails(plane, tmp_path), SessionRefused)
    await revoking


async def test_a_rejected_registration_ends_the_worker(plane: ControlPlane, tmp_path: Path) -> None:
    """A rejected worker does not come back."""
    plane.registration_error = (403, "worker_refused")
    assert isinstance(await run_until_it_fails(plane, tmp_path), WorkerRefused)


async def test_a_wrong_api_key_ends_the_worker(plane: ControlPlane, tmp_path: Path) -> None:
    """A key that was never accepted is a setting to correct, not an outage."""
    plane.registration_error = (401, "unauthenticated")
    assert isinstance(await run_until_it_fails(plane, tmp_path), Unauthenticated)


async def test_running_work_survives_a_cut_session(plane: ControlPlane, tmp_path: Path) -> None:
    """A break changes nothing for what runs: the worker resumes, names it, and reports it once."""
    async with running_agent(plane, tmp_path):
        go, started = tmp_path / "go", tmp_path / "started"
        task = plane.submit("wait_for_file", str(go), str(started))
        await plane.until(started.exists)
        execution = plane.claims[0].execution_id
        await plane.cut()
        await plane.until(lambda: len(plane.hellos) == 2)
        assert plane.hellos[1].epoch == 1
        assert plane.hellos[1].running == (execution,)
        assert plane.hellos[1].boot_id == plane.hellos[0].boot_id
        go.touch()
        report = await plane.outcome_of(task)
        assert report.execution_id == execution
        assert report.outcome.result == {"value": "seen"}
        await plane.until(lambda: len(plane.settled.acks) >= 1)
        assert len(plane.outcomes) == 1


async def test_an_unanswered_claim_is_repeated_under_the_same_execution(plane: ControlPlane, tmp_path: Path) -> None:
    """A claim that no answer came to is repeated after the break, once, and the work runs once."""
    async with running_agent(plane, tmp_path):
        plane.answer = lambda claim: None
        task = plane.submit("add", 1, 2)
        await plane.until(lambda: len(plane.claims) == 1)
        await plane.cut()
        plane.answer = plane.grant
        report = await plane.outcome_of(task)
        repeated = [claim.redelivered for claim in plane.claims if claim.execution_id == report.execution_id]
        assert repeated == [False, True]
        # The delivery that came back with the break is acknowledged too.
        await plane.until(lambda: len(plane.settled.acks) >= 1)
        assert len(plane.outcomes) == 1


async def test_a_claim_whose_lease_has_ended_is_handed_back(plane: ControlPlane, tmp_path: Path) -> None:
    """An execution whose lease ended before it began never begins, whatever the answer says."""
    async with running_agent(plane, tmp_path):
        plane.answer = lambda claim: None
        ran = tmp_path / "ran"
        task = plane.submit("touch_and_wait", str(ran), 0)
        await plane.until(lambda: len(plane.claims) == 1)
        plane.ended = (plane.claims[0].execution_id,)
        await plane.cut()
        outcome = (await plane.outcome_of(task)).outcome
        assert (outcome.kind, outcome.effect) == (OutcomeKind.INTERRUPTED, Effect.NONE)
        assert not ran.exists()


async def test_running_work_whose_lease_has_ended_is_stopped(plane: ControlPlane, tmp_path: Path) -> None:
    """After a resume, work that belongs to somebody else now is stopped."""
    async with running_agent(plane, tmp_path):
        started = tmp_path / "started"
        task = plane.submit("touch_and_wait", str(started))
        await plane.until(started.exists)
        plane.ended = (plane.claims[0].execution_id,)
        await plane.cut()
        outcome = (await plane.outcome_of(task)).outcome
        assert (outcome.kind, outcome.effect) == (OutcomeKind.INTERRUPTED, Effect.MAYBE)


async def test_an_outage_of_the_control_plane_is_survived(plane: ControlPlane, tmp_path: Path) -> None:
    """Work that ends while the control plane is down is reported when it is back, and new work follows."""
    async with running_agent(plane, tmp_path):
        go, started = tmp_path / "go", tmp_path / "started"
        task = plane.submit("wait_for_file", str(go), str(started))
        await plane.until(started.exists)
        await plane.stop()
        go.touch()
        spooled = tmp_path / "state" / "spool" / f"{plane.claims[0].execution_id}.outcome"
        await plane.until(spooled.exists)
        await plane.start()
        assert (await plane.outcome_of(task)).outcome.kind is OutcomeKind.SUCCEEDED
        await plane.until(lambda: not spooled.exists())
        await plane.outcome_of(plane.submit("add", 1, 2))


async def test_a_silent_control_plane_is_left(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any frame for the agreed time the worker opens a new session."""
    monkeypatch.setattr(session_module, "SILENCE_S", 1.5)
    async with running_agent(plane, tmp_path):
        plane.pings = False
        await plane.until(lambda: len(plane.hellos) >= 2)
        plane.pings = True
        await plane.outcome_of(plane.submit("add", 1, 2))


HOSTILE: list[bytes | str] = [
    b"",
    b"\xc1",
    b"\x93\x01\x02\x03",
    b"\x82\xa1v\x01\xa1k\xa7unknown",
    b"\x82\xa1v\x63\xa1k\xa4ping",
    b"\xdf\xff\xff\xff\xff",
    b"\x91" * 5000,
    "text",
    b"x" * (5 * 1024 * 1024),
    down_codec().encode(Welcome(epoch=99, heartbeat_s=0.0, server_time=0)),
    down_codec().encode(Lanes(lanes=("q.x.nonsense", "../../etc", "q.t.w."))),
    down_codec().encode(Cancel(execution_id="exec_of_nobody", reason="")),
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
async def test_nonsense_from_the_control_plane_does_not_end_the_worker(
    plane: ControlPlane, tmp_path: Path, data: bytes | str
) -> None:
    """Whatever comes down the session, the worker works on, in a new session if need be."""
    async with running_agent(plane, tmp_path):
        plane.send_bytes(data)
        await plane.until(lambda: plane.connected)
        plane.send(Lanes(lanes=(PYTHON_LANE,)))
        tasks: list[str] = []

        def works() -> bool:
            # Again and again: what is delivered to a session that ends, or a consumer that stops, comes later.
            if len(tasks) < 100:
                tasks.append(plane.submit("add", 1, 2))
            return any(plane.outcome(task) for task in tasks)

        await plane.until(works)


async def test_nonsense_in_place_of_a_challenge_is_tried_again(plane: ControlPlane, tmp_path: Path) -> None:
    """Even before its first welcome the worker outlives whatever answers at the control plane's address."""
    plane.nonsense = [b"\xc1", b"", b"\x82\xa1v\x01\xa1k\xa4ping"]
    async with running_agent(plane, tmp_path):
        assert plane.nonsense == []
        await plane.outcome_of(plane.submit("add", 1, 2))


async def test_heartbeats_come_at_once_and_tell_the_slots(plane: ControlPlane, tmp_path: Path) -> None:
    """The first heartbeat comes with the session; busy slots show in the following ones."""
    async with running_agent(plane, tmp_path):
        await plane.until(lambda: len(plane.heartbeats) >= 1)
        first = plane.heartbeats[0]
        assert first.memory_total_bytes > first.memory_used_bytes > 0
        assert (first.slots["python"].busy, first.slots["python"].total) == (0, 4)
        go, started = tmp_path / "go", tmp_path / "started"
        plane.submit("wait_for_file", str(go), str(started))
        await plane.until(lambda: plane.heartbeats[-1].slots["python"].busy == 1)
        go.touch()
        await plane.until(lambda: plane.heartbeats[-1].slots["python"].busy == 0)


async def test_lanes_can_be_taken_and_given(plane: ControlPlane, tmp_path: Path) -> None:
    """A worker consumes exactly the lanes that it was told last."""
    other = "q.t.other.python"
    async with running_agent(plane, tmp_path):
        plane.send(Lanes(lanes=(other,)))
        await plane.outcome_of(plane.submit("add", 1, 2, lane=other))
        await plane.until(lambda: set(plane.heartbeats[-1].slots) == {"python"})
        left = plane.submit("add", 1, 2)
        await plane.outcome_of(plane.submit("add", 3, 4, lane=other))
        assert plane.outcome(left) is None
        plane.send(Lanes(lanes=(other, PYTHON_LANE)))
        await plane.outcome_of(left)


async def test_a_worker_without_lanes_finishes_what_it_has_and_gives_the_rest_back(
    plane: ControlPlane, tmp_path: Path
) -> None:
    """What it had prefetched goes back to its lane, and runs when it has lanes again."""
    async with running_agent(plane, tmp_path, slots_python=1):
        go, started = tmp_path / "go", tmp_path / "started"
        running = plane.submit("wait_for_file", str(go), str(started))
        await plane.until(started.exists)
        waiting = [plane.submit("add", number, number) for number in range(3)]
        plane.send(Lanes(lanes=()))
        await plane.until(lambda: plane.lanes.consumers(PYTHON_LANE) == 0)
        assert plane.lanes.depth(PYTHON_LANE) == 1 + len(waiting)
        go.touch()
        assert (await plane.outcome_of(running)).outcome.result == {"value": "seen"}
        assert len(plane.claims) == 1
        plane.send(Lanes(lanes=(PYTHON_LANE,)))
        for task in waiting:
            await plane.outcome_of(task)
        assert len(plane.outcomes) == 1 + len(waiting)


async def test_a_lane_runs_no_more_than_its_slots_even_after_a_resume(plane: ControlPlane, tmp_path: Path) -> None:
    """Fresh credit after a resume does not run more at once than the lane has slots."""
    async with running_agent(plane, tmp_path, slots_python=1):
        go = tmp_path / "go"
        plane.submit("wait_for_file", str(go), str(tmp_path / "first"))
        await plane.until((tmp_path / "first").exists)
        await plane.cut()
        await plane.until(lambda: len(plane.hellos) == 2)
        second = plane.submit("touch_and_wait", str(tmp_path / "second"), 0)
        await plane.until(lambda: plane.connected and len(plane.heartbeats) >= 2)
        beats = len(plane.heartbeats)
        await plane.until(lambda: len(plane.heartbeats) >= beats + 2)
        assert not (tmp_path / "second").exists()
        assert len(plane.claims) == 1
        go.touch()
        await plane.outcome_of(second)


async def test_it_takes_nothing_more_while_too_many_outcomes_are_unsettled(plane: ControlPlane, tmp_path: Path) -> None:
    """No more is claimed then, beyond what the slots had begun, until some outcomes are stored."""
    allowed, slots, submitted = 2, 2, 12

    def reported() -> int:
        return len({report.task_id for report in plane.outcomes})

    plane.stores = False
    async with running_agent(plane, tmp_path, unsettled_max=allowed, slots_python=slots):
        for number in range(submitted):
            plane.submit("add", number, number)
        await plane.until(lambda: reported() >= allowed)
        beats = len(plane.heartbeats)
        await plane.until(lambda: len(plane.heartbeats) >= beats + 2)
        assert len({claim.task_id for claim in plane.claims}) <= allowed + slots
        assert plane.heartbeats[-1].unsettled <= allowed + slots
        plane.stores = True
        await plane.cut()
        await plane.until(lambda: reported() == submitted)


async def test_reconnecting_backs_off(plane: ControlPlane, tmp_path: Path) -> None:
    """A control plane that closes every session at once is not hammered."""
    async with running_agent(plane, tmp_path):
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            await plane.cut()
            await asyncio.sleep(0.01)
        assert len(plane.hellos) < 40
