"""Hostile peers: no bytes from a worker or a stranger bring the control plane down or touch another's work."""

import itertools
import os
import random
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgpack
import pytest
from websockets.exceptions import WebSocketException

from protocols import PROTOCOL_VERSION
from protocols.claim import Claim, Verdict
from protocols.frames import (
    MAX_FRAME_BYTES,
    Answers,
    Claims,
    Consume,
    Hello,
    Kept,
    Outcomes,
    OutcomesStored,
    Output,
    Settle,
    StopConsuming,
    UpFrame,
    up_codec,
)
from protocols.ids import EXECUTION, new_id
from protocols.names import pinned_lane_name
from protocols.outcome import KeptOutput, Outcome, OutcomeReport, OutputChunk
from protocols.states import TaskState
from tests.support.cluster import Cluster, tasks_of_both_kinds
from tests.support.processes import Worker, wait_until
from tests.support.raw_worker import RawWorker

MOST_GROWTH_BYTES = 96 * 1024 * 1024
LANE = "q.t.default.python"
_names = itertools.count()


def _packed(**fields: object) -> bytes:
    data: bytes = msgpack.packb({"v": PROTOCOL_VERSION, **fields})
    return data


def _claim(number: int) -> dict[str, object]:
    return {"task_id": f"task_{number}", "attempt": 1, "execution_id": f"exec_{number}", "redelivered": False}


def _nested(levels: int) -> bytes:
    return b"\x91" * levels + b"\xc0"


_seeded = random.Random(20261122)
REFUSED: dict[str, bytes | str] = {
    "random": _seeded.randbytes(4096),
    "empty": b"",
    "text": "hello",
    "no map": msgpack.packb([1, 2, 3]),
    "wrong version": msgpack.packb({"v": PROTOCOL_VERSION + 1, "k": "pong", "number": 1}),
    "no version": msgpack.packb({"k": "pong", "number": 1}),
    "unknown kind": _packed(k="shutdown"),
    "down kind": _packed(k="ping", number=1),
    "deeply nested": _packed(k="pong", number=1)[:-1] + _nested(50_000),
    "array that promises millions": b"\xdd\xff\xff\xff\xff",
    "string that promises gigabytes": b"\xdb\xff\xff\xff\xff",
    "too many claims": _packed(k="claims", items=[_claim(number) for number in range(101)]),
    "ten thousand claims": _packed(k="claims", items=[_claim(number) for number in range(10_000)]),
    "claim of another type": _packed(k="claims", items=[{**_claim(1), "attempt": "1"}]),
    "negative tag": _packed(k="settle", acks=[-1]),
    "tag beyond integers": _packed(k="settle", acks=[2**63]),
    "oversized": b"\xc6" + (MAX_FRAME_BYTES + 10).to_bytes(4, "big") + bytes(MAX_FRAME_BYTES + 10),
    "foreign lane": up_codec().encode(Consume(lane="q.t.w.someone-else", tag=1, prefetch=1)),
    "no lane": up_codec().encode(Consume(lane="amq.direct", tag=1, prefetch=1)),
    "hello again": up_codec().encode(
        Hello(worker_id="w", boot_id="b", signature=bytes(64), version="0", slots={"python": 1})
    ),
}
"""What ends the session that brings it."""
IGNORED: dict[str, UpFrame] = {
    "unknown acks": Settle(acks=tuple(range(10_000)), rejects=tuple(range(10_000))),
    "unknown consumer": StopConsuming(tag=77),
    "claims of nothing": Claims(
        items=tuple(Claim(task_id="task_0", attempt=1, execution_id=f"exec_{number}") for number in range(100))
    ),
    "outcomes of nothing": Outcomes(
        items=tuple(
            OutcomeReport(
                task_id="task_0", attempt=1, execution_id=f"exec_{number}", outcome=Outcome.success({"value": 0})
            )
            for number in range(100)
        )
    ),
}
"""What changes nothing, and lets the session live."""


@pytest.fixture(scope="module")
def honest(cluster: Cluster) -> Worker:
    worker = cluster.worker("honest")
    worker.start()
    return worker


@pytest.fixture(scope="module")
def hostile(cluster: Cluster) -> Iterator[RawWorker]:
    with RawWorker(cluster.broker, "hostile") as worker:
        yield worker


@pytest.fixture
def undisturbed(cluster: Cluster, honest: Worker) -> Iterator[None]:
    """All through the test an honest worker works as if nothing were; the control plane lives and stays small."""
    memory = cluster.broker.memory_bytes()
    pid = cluster.broker.pid
    ids = cluster.api.submit_all(tasks_of_both_kinds(cluster.effect, f"honest{next(_names)}", 10, seconds=0.02))
    sessions = honest.sessions_opened()
    yield
    cluster.ledger.wait_for(ids, TaskState.SUCCEEDED)
    rows = cluster.ledger.rows(ids)
    assert {(row.tries, row.losses) for row in rows} == {(0, 0)}
    assert {cluster.effects.count(row.title) for row in rows} == {1}
    assert honest.sessions_opened() == sessions
    assert (cluster.broker.pid, cluster.broker.alive) == (pid, True)
    assert cluster.broker.memory_bytes() - memory < MOST_GROWTH_BYTES
    assert cluster.api.healthy()


@pytest.mark.parametrize("name", REFUSED)
def test_a_frame_that_is_none_ends_its_session_only(
    cluster: Cluster, hostile: RawWorker, honest: Worker, name: str
) -> None:
    """The control plane closes the session that brought it and goes on; the worker may come back at once."""
    pid = cluster.broker.pid
    hostile.open()
    with suppress(WebSocketException):
        hostile.send_raw(REFUSED[name])
    assert hostile.is_thrown_out()
    assert (cluster.broker.pid, cluster.broker.alive) == (pid, True)
    assert hostile.open().epoch > 0
    assert honest.alive


@pytest.mark.parametrize("name", IGNORED)
def test_a_frame_about_nothing_changes_nothing(hostile: RawWorker, name: str, undisturbed: None) -> None:
    """Acknowledging, stopping, claiming and reporting what is not there is harmless."""
    hostile.open()
    hostile.send(IGNORED[name])
    assert not hostile.is_thrown_out()


def test_a_claim_of_what_is_in_a_foreign_lane_is_dropped(cluster: Cluster, hostile: RawWorker, honest: Worker) -> None:
    """A worker that guesses the id of a task pinned to another worker neither runs it nor learns its secrets."""
    hostile.open()
    honest.freeze()
    try:
        (task_id,) = cluster.api.submit_all([cluster.effect(f"pinned{next(_names)}", worker="honest")])
        hostile.send(Claims(items=(Claim(task_id=task_id, attempt=1, execution_id=new_id(EXECUTION)),)))
        answers = hostile.receive(Answers)
    finally:
        honest.thaw()
    assert [answer.verdict for answer in answers.items] == [Verdict.DROP]
    cluster.ledger.wait_for([task_id], TaskState.SUCCEEDED)


def test_a_foreign_execution_cannot_be_ended_or_given_output(
    cluster: Cluster, hostile: RawWorker, honest: Worker, undisturbed: None
) -> None:
    """Outcome, live output and kept output of an execution count only from the worker that runs it."""
    key = f"mine{next(_names)}"
    (task_id,) = cluster.api.submit_all([cluster.effect(key, 1.0)])
    wait_until("it runs", lambda: cluster.effects.count(key))
    execution_id = cluster.api.task(task_id)["execution_id"]
    chunk = OutputChunk(
        task_id=task_id, execution_id=execution_id, attempt=1, offset=0, stream="stdout", data=b"forged"
    )
    kept = KeptOutput(
        task_id=task_id, execution_id=execution_id, attempt=1, part=0, last=True, total_bytes=6, chunks=(chunk,)
    )
    forged = OutcomeReport(
        task_id=task_id, attempt=1, execution_id=execution_id, outcome=Outcome.success({"value": "forged"})
    )
    hostile.open(running=[execution_id])
    hostile.send(Output(chunks=(chunk,)))
    hostile.send(Kept(output=kept))
    hostile.send(Outcomes(items=(forged,)))
    hostile.receive(OutcomesStored)
    assert cluster.ledger.row(task_id).state == TaskState.RUNNING.value
    cluster.ledger.wait_for([task_id], TaskState.SUCCEEDED)
    assert cluster.api.task(task_id)["result"] == {"value": key}
    assert b"forged" not in cluster.api.request("GET", f"/tasks/{task_id}/output").content


def test_a_flood_of_output_and_garbage_leaves_memory_bounded(
    cluster: Cluster, hostile: RawWorker, undisturbed: None
) -> None:
    """200 MB of live output of executions that nobody knows, and large garbage, do not stay in memory."""
    hostile.open()
    for number in range(200):
        chunk = OutputChunk(
            task_id="task_0",
            execution_id=f"exec_{number}",
            attempt=1,
            offset=0,
            stream="stdout",
            data=os.urandom(1024) * 1000,
        )
        hostile.send(Output(chunks=(chunk,)))
    assert not hostile.is_thrown_out()
    for _ in range(10):
        hostile.open()
        with suppress(WebSocketException):
            hostile.send_raw(_seeded.randbytes(MAX_FRAME_BYTES))


def _plain(data: bytes) -> Callable[[int], socket.socket]:
    def speak(port: int) -> socket.socket:
        stranger = socket.create_connection(("127.0.0.1", port), 10)
        stranger.sendall(data)
        return stranger

    return speak


def _tls(port: int) -> socket.socket:
    stranger = socket.create_connection(("127.0.0.1", port), 10)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        return context.wrap_socket(stranger)
    except (ssl.SSLError, OSError):
        return stranger


STRANGERS: dict[str, Callable[[int], socket.socket]] = {
    "random": _plain(_seeded.randbytes(65536)),
    "half a request": _plain(b"POST /api/v1/tasks HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n{"),
    "endless header": _plain(b"GET / HTTP/1.1\r\nX: " + b"a" * 1_000_000),
    "upgrade without a key": _plain(
        b"GET /api/v1/workers/session HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ),
    "tls": _tls,
}


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_on_the_port_change_nothing(cluster: Cluster, name: str, undisturbed: None) -> None:
    """Fifty connections of junk, without any key, harm nobody while they are open nor after."""
    strangers: list[socket.socket] = []
    for _ in range(50):
        with suppress(ConnectionError):
            strangers.append(STRANGERS[name](cluster.broker.port))
    assert cluster.api.healthy()
    for stranger in strangers:
        stranger.close()


def test_a_connection_that_does_not_introduce_itself_holds_up_nobody(
    cluster: Cluster, hostile: RawWorker, undisturbed: None
) -> None:
    """Connected with the right key, without hello or with a wrong signature: no session, and others work."""
    hostile.knock()
    hostile.send(Hello(worker_id=hostile.id, boot_id="b", signature=bytes(64), version="0", slots={}))
    assert hostile.is_thrown_out()
    hostile.knock()
    hostile.send(Claims(items=()))
    assert hostile.is_thrown_out()


def test_the_invariant_holds_after_all_of_it(cluster: Cluster, hostile: RawWorker, honest: Worker) -> None:
    """Every task has ended lawfully, and an old epoch gives a worker a new session and nothing else."""
    assert hostile.open(epoch=2**40, running=["exec_of_nobody"]).ended == ()
    assert pinned_lane_name(hostile.id) in hostile.open().lanes
    hostile.close()
    cluster.ledger.check(cluster.effects)
