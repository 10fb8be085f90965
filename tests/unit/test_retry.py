"""What is tried again, for how long, and what never is."""

import time
from collections.abc import Iterator

import pytest

from client.http import ApiClient
from client.http_errors import Untrusted
from client.retry import Patience, RetryPolicy
from protocols.errors import InvalidInput, NotFound, StorageFull, Unavailable, Unreachable, WarrenError
from tests.support.ports import free_port
from tests.support.scripted_http import Answer, ScriptedServer

BUSY = Answer(status=503, body={"error": {"code": "unavailable", "message": "not now"}})
GONE = Answer(status=404, body={"error": {"code": "not_found", "message": "no such thing"}})
LOST = Answer(breaks=True)
FINE = Answer(body={"id": "x"})
PATIENT_S = 30.0


def test_pauses_grow_with_full_jitter_up_to_the_cap() -> None:
    """The pause is drawn from the whole range, which doubles with each failure until the cap."""
    policy = RetryPolicy(for_s=60.0, base_s=0.1, cap_s=5.0)
    longest = [policy.pause_s(failures, None, lambda: 1.0) for failures in (1, 2, 3, 7, 1000)]
    assert longest == [0.1, 0.2, 0.4, 5.0, 5.0]
    assert policy.pause_s(7, None, lambda: 0.0) == 0.0


def test_what_the_other_side_asks_for_comes_first() -> None:
    """Retry-After is waited out in full, the jitter on top of it."""
    assert RetryPolicy(for_s=60.0).pause_s(1, 2.0, lambda: 0.5) == 2.05


@pytest.mark.parametrize("error", [InvalidInput(), NotFound(), StorageFull(), WarrenError(), Untrusted()])
def test_what_will_not_pass_is_not_tried_again(error: WarrenError) -> None:
    """Refusals, defects, full disks and certificates are no better a moment later."""
    with pytest.raises(type(error)):
        Patience(RetryPolicy(for_s=PATIENT_S)).bear(error)


def test_nothing_is_tried_again_without_a_budget() -> None:
    """With no time to spend the first failure is the last."""
    with pytest.raises(Unreachable):
        Patience(RetryPolicy(for_s=0.0)).bear(Unreachable())


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("failure", [BUSY, LOST, Answer(status=502, body="<html>")])
def test_what_can_be_repeated_is_tried_until_it_works(method: str, failure: Answer) -> None:
    """No answer, a busy control plane and a confused proxy are waited out."""
    with ScriptedServer({"/x": [failure, failure, FINE]}) as server, _client(server) as client:
        if method == "DELETE":
            client.delete("/x")
        else:
            assert client.request(method, "/x", json={}).json() == {"id": "x"}
    assert [asked.method for asked in server.asked] == [method] * 3


def test_a_post_is_sent_once() -> None:
    """What might happen twice is not repeated, whatever went wrong."""
    for failure, kind in ((BUSY, Unavailable), (LOST, Unreachable)):
        with ScriptedServer({"/x": [failure, FINE]}) as server, _client(server) as client, pytest.raises(kind):
            client.post("/x")
        assert len(server.asked) == 1


def test_a_creation_is_repeated_under_its_key() -> None:
    """A POST with an Idempotency-Key is repeated, under the same key each time."""
    with ScriptedServer({"/tasks": [LOST, BUSY, FINE]}) as server, _client(server) as client:
        assert client.create("/tasks", {}, key="mine") == {"id": "x"}
    assert [asked.headers["Idempotency-Key"] for asked in server.asked] == ["mine"] * 3


def test_a_deletion_whose_answer_was_lost_is_done_when_nothing_is_left() -> None:
    """NotFound after a lost answer means that it worked; NotFound at once is an error."""
    with ScriptedServer({"/x": [LOST, GONE]}) as server, _client(server) as client:
        client.delete("/x")
    with ScriptedServer({"/x": [GONE]}) as server, _client(server) as client, pytest.raises(NotFound):
        client.delete("/x")
    with ScriptedServer({"/x": [BUSY, GONE]}) as server, _client(server) as client, pytest.raises(NotFound):
        client.delete("/x")


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status: int) -> None:
    """The next try comes no earlier than the control plane asked."""
    later = Answer(status=status, body={}, headers={"Retry-After": "1"})
    with ScriptedServer({"/x": [later, FINE]}) as server, _client(server) as client:
        began = time.monotonic()
        client.get("/x")
    assert time.monotonic() - began >= 1.0


def test_a_pause_beyond_the_budget_is_not_begun() -> None:
    """Who has half a second does not wait for an hour to find that it was too long."""
    later = Answer(status=503, body={}, headers={"Retry-After": "3600"})
    began = time.monotonic()
    with ScriptedServer({"/x": [later]}) as server, ApiClient(server.url) as client, pytest.raises(Unavailable):
        client.get("/x")
    assert time.monotonic() - began < PATIENT_S


@pytest.mark.parametrize(("value", "seconds"), [("5", 5.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", None)])
def test_retry_after_is_a_number_or_a_date(value: str, seconds: float | None) -> None:
    """Both forms of RFC 9110 are read; a date that has passed is now, nonsense is nothing."""
    answer = Answer(status=503, body={}, headers={"Retry-After": value})
    with (
        ScriptedServer({"/x": [answer]}) as server,
        ApiClient(server.url, retry_for_s=0.0) as client,
        pytest.raises(Unavailable) as caught,
    ):
        client.get("/x")
    assert caught.value.retry_after_s == seconds


def test_a_download_begins_anew_when_it_breaks() -> None:
    """Who takes a file's bytes gets them from the start again after a broken connection."""
    tries: list[Iterator[bytes]] = []

    def take(pieces: Iterator[bytes]) -> bytes:
        tries.append(pieces)
        return b"".join(pieces)

    cut = Answer(stream="half", breaks=True)
    with ScriptedServer({"/f": [cut, Answer(stream="whole")]}) as server, _client(server) as client:
        assert client.download("/f", take) == b"whole"
    assert len(tries) == 2


def test_a_stream_is_left_at_its_moment_although_keep_alives_come() -> None:
    """A deadline ends a stream in time, and what follows on the client still works."""
    script = {"/s": [Answer(stream=": keep-alive\n\n", endless=True)], "/x": [FINE]}
    with ScriptedServer(script) as server, _client(server) as client:
        began = time.monotonic()
        assert list(client.stream("/s", until=began + 0.4)) == []
        assert 0.4 <= time.monotonic() - began < PATIENT_S
        assert client.get("/x") == {"id": "x"}
    assert [asked.path for asked in server.asked] == ["/s", "/x"]


def test_a_stream_waits_for_a_control_plane_that_starts_late() -> None:
    """With patience the first connection may fail as well."""
    end = Answer(stream="event: end\ndata: {}\n\n")
    with ScriptedServer({"/s": [LOST, BUSY, LOST, end]}) as server, _client(server) as client:
        assert next(client.stream("/s")).event == "end"
    with ApiClient(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(Unreachable):
        next(client.stream("/s"))


def _client(server: ScriptedServer) -> ApiClient:
    return ApiClient(server.url, retry_for_s=PATIENT_S)
