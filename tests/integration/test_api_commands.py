"""Trying connections out and running commands on them, with a real worker and a real OpenSSH server."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.ports import free_port
from tests.support.processes import FAST, wait_until
from tests.support.sshd import PrivateSshd


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSshd]:
    """A host."""
    with PrivateSshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, sshd: PrivateSshd) -> Iterator[Cluster]:
    """A control plane with one worker, which knows the host as `host`."""
    with Cluster(tmp_path_factory.mktemp("commands"), FAST) as cluster:
        cluster.broker.start()
        cluster.worker("runner").start()
        cluster.api.call("POST", "/secrets", {"name": "login", "value": sshd.private_key})
        connect(cluster.api, sshd, "host")
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Api:
    """An administrator."""
    return cluster.api


def connect(api: Api, sshd: PrivateSshd, name: str, **other: Any) -> str:
    """Add a connection to the host, or one that differs from it, and return its id."""
    form = {
        "name": name,
        "hostname": sshd.hostname,
        "port": sshd.port,
        "username": sshd.username,
        "secret": "login",
        "host_keys": list(sshd.host_keys),
        **other,
    }
    return str(api.call("POST", "/ssh-connections", form)["id"])


def execute(api: Api, command: str, **form: Any) -> httpx2.Response:
    """Run a command on the host."""
    return api.request("POST", "/ssh-connections/host/execute", {"command": command, **form})


def newest(api: Api) -> str:
    """Return the id of the task that was submitted last."""
    return str(api.call("GET", "/tasks?limit=1")["data"][0]["id"])


def last_audit(api: Api) -> dict[str, Any]:
    """Return the newest entry of the audit log."""
    entry: dict[str, Any] = api.call("GET", "/admin/audit?limit=1")["data"][0]
    return entry


def test_a_connection_that_works_is_told_so(api: Api) -> None:
    """A worker logs in: ok, with the task that did it and how long it took, noted in the audit log."""
    answer = api.call("POST", "/ssh-connections/host/test")
    assert (answer["ok"], answer["state"], answer["error"]) == (True, "succeeded", None)
    assert 0 <= answer["duration_ms"] < 30_000
    task = api.task(answer["task_id"])
    assert (task["action"], task["connection"], task["max_attempts"]) == ("ssh.exec", "host", 1)
    connection = api.call("GET", "/ssh-connections/host")
    entry = last_audit(api)
    assert (entry["action"], entry["object"], entry["data"]) == (
        "connection.test",
        connection["id"],
        {"task_id": answer["task_id"]},
    )


@pytest.mark.parametrize(
    ("name", "wrong", "code"),
    [
        ("other-key", {"host_keys": ["SHA256:" + "A" * 43]}, "host_key"),
        ("closed", {"port": free_port()}, "connect"),
        ("nobody", {"username": "nobody-of-that-name"}, "auth"),
    ],
)
def test_a_connection_that_fails_is_told_why(
    api: Api, sshd: PrivateSshd, name: str, wrong: dict[str, Any], code: str
) -> None:
    """At the first failure: not ok, with the code and words of what went wrong."""
    connect(api, sshd, name, **wrong)
    began = time.monotonic()
    answer = api.call("POST", f"/ssh-connections/{name}/test", {"timeout_s": 60})
    assert time.monotonic() - began < 30
    assert (answer["ok"], answer["state"]) == (False, "dead")
    assert code in answer["error"]["code"]
    assert answer["error"]["message"]


def test_a_host_that_does_not_answer_is_given_up(api: Api, sshd: PrivateSshd) -> None:
    """A test that hangs is told so within its time, and its worker is told to stop."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        connect(api, sshd, "silent", port=silent.getsockname()[1])
        answer = api.call("POST", "/ssh-connections/silent/test", {"timeout_s": 1})
        assert not answer["ok"]
        assert answer["error"]["code"] == "timeout"
        wait_until("its task ends", lambda: api.task(answer["task_id"])["state"] in ("cancelled", "dead"))


@pytest.mark.parametrize("where", [{"pool": "empty"}, {"worker": "asleep"}])
def test_without_a_worker_a_test_says_so(api: Api, cluster: Cluster, where: dict[str, str]) -> None:
    """Where nobody could run it, the answer names that and nothing is left waiting."""
    if "worker" in where and api.worker("asleep") is None:
        asleep = cluster.worker("asleep")
        asleep.start()
        asleep.stop()
    answer = api.call("POST", "/ssh-connections/host/test", {"timeout_s": 1, **where})
    assert (answer["ok"], answer["state"], answer["duration_ms"]) == (False, "cancelled", None)
    assert answer["error"]["code"] == "no_worker"
    assert next(iter(where.values())) in answer["error"]["message"]
    assert "/workers" in answer["error"]["hint"]


def test_a_command_answers_with_its_output(api: Api) -> None:
    """Exit status and both streams come back with the finished task, noted without the command."""
    answer = execute(api, "echo out; echo höher >&2; exit 3")
    body = answer.json()
    assert answer.status_code == 200
    assert (body["exit_status"], body["stdout"], body["stderr"], body["truncated"]) == (3, "out\n", "höher\n", False)
    assert (body["task"]["state"], body["task"]["created_by"]) == ("dead", "admin")
    entry = last_audit(api)
    assert (entry["action"], entry["data"]) == ("connection.execute", {"task_id": body["task"]["id"]})
    assert execute(api, "true").json()["exit_status"] == 0
    assert execute(api, "printf '\\377'").json()["stdout"] == "\ufffd"


def test_much_output_is_cut(api: Api) -> None:
    """What is beyond 256 KiB of a stream is left out, which is told; the task has the rest."""
    body = execute(api, "head -c 300000 /dev/zero | tr '\\0' x; echo end >&2").json()
    assert (body["stdout"], body["stderr"], body["truncated"]) == ("x" * 262_144, "end\n", True)
    path = f"/tasks/{body['task']['id']}/output"
    assert len(api.request("GET", path).content) == 300_004


def test_a_command_that_takes_longer_goes_on(api: Api) -> None:
    """After `wait_s` comes 202 with the task's address, and the command ends by itself."""
    answer = execute(api, "sleep 2; echo done", wait_s=0.2)
    body = answer.json()
    assert answer.status_code == 202
    assert answer.headers["Location"] == f"/api/v1/tasks/{body['task']['id']}"
    assert (body["exit_status"], body["stdout"]) == (None, "")
    wait_until("it ends", lambda: api.task(body["task"]["id"])["state"] == "succeeded")


def test_a_client_that_leaves_cancels_nothing(api: Api, cluster: Cluster) -> None:
    """The command goes on when whoever waited for it is gone."""
    before = newest(api)
    body = b'{"command": "sleep 1; echo still here"}'
    head = (
        f"POST /api/v1/ssh-connections/host/execute HTTP/1.1\r\nHost: x\r\nX-API-Key: {cluster.broker.key('admin')}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", cluster.broker.port), 30) as connection:
        connection.sendall(head.encode() + body)
        wait_until("there is a task", lambda: newest(api) != before)
    task_id = newest(api)
    wait_until("it ends", lambda: api.task(task_id)["state"] == "succeeded")


def test_the_end_of_the_control_plane_ends_the_wait(api: Api, cluster: Cluster) -> None:
    """Who waits when it stops gets an answer, and the task is there after its restart."""
    answers: list[httpx2.Response] = []
    before = newest(api)
    waiting = threading.Thread(target=lambda: answers.append(execute(api, "sleep 4")))
    waiting.start()
    wait_until("it runs", lambda: newest(api) != before and api.task(newest(api))["state"] == "running")
    cluster.broker.stop()
    waiting.join(30)
    assert [answer.status_code for answer in answers] == [202]
    cluster.broker.start()
    task_id = answers[0].json()["task"]["id"]
    wait_until("it ends", lambda: api.task(task_id)["state"] == "succeeded")


@pytest.mark.parametrize(
    ("path", "form", "status"),
    [
        ("host/execute", {}, 422),
        ("host/execute", None, 422),
        ("host/execute", {"command": ""}, 422),
        ("host/execute", {"command": "x" * 65_537}, 422),
        ("host/execute", {"command": "é" * 32_769}, 422),
        ("host/execute", {"command": "true", "wait_s": 301}, 422),
        ("host/execute", {"command": "true", "wait_s": -1}, 422),
        ("host/execute", {"command": "true", "timeout_s": 0}, 422),
        ("host/execute", {"command": "true", "pool": "No Pool"}, 422),
        ("host/execute", {"command": "true", "pool": ""}, 422),
        ("host/execute", {"command": "true", "worker": "unheard-of"}, 404),
        ("host/execute", {"command": "true", "stdin": "x"}, 422),
        ("host/test", {"timeout_s": 0.5}, 422),
        ("host/test", {"timeout_s": 121}, 422),
        ("host/test", {"pool": "w"}, 422),
        ("host/test", [], 422),
        ("unheard-of/test", {}, 404),
        ("unheard-of/execute", {"command": "true"}, 404),
        ("x" * 4000 + "/execute", {"command": "true"}, 404),
    ],
)
def test_what_cannot_be_run_is_refused(api: Api, path: str, form: object, status: int) -> None:
    """A form with something wrong, or a name that nothing has, makes no task."""
    before = api.call("GET", "/tasks?limit=1")["total"]
    assert api.request("POST", f"/ssh-connections/{path}", form).status_code == status
    assert api.call("GET", "/tasks?limit=1")["total"] == before


def test_only_admins_run_commands(api: Api, cluster: Cluster) -> None:
    """An operator is refused both."""
    made = api.call("POST", "/security/api-keys", {"name": "an-operator", "role": "operator"})
    with Api(cluster.broker.url, made["key"]) as operator:
        for path, form in (("test", {}), ("execute", {"command": "true"})):
            assert operator.request("POST", f"/ssh-connections/host/{path}", form).status_code == 403
