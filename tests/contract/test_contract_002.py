"""A plain HTTP client written from contract 002's text alone, for every entry that docs/api.md calls served.

Paths, methods, queries and body fields are the contract's. Each entry is tried with and without a slash at its end,
against a real control plane with a real worker and a real SSH server behind it.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.sync.client import connect

from tests.support.cluster import Cluster
from tests.support.processes import FAST, ROOT, wait_until
from tests.support.sshd import PrivateSshd

Json = dict[str, Any]

NODE = {
    "name": "node-1",
    "hostname": "node-1.example",
    "ip_address": "192.0.2.7",
    "max_agents": 4,
    "cpu_cores": 8,
    "memory_total_mb": 16384,
    "os_info": "Debian 12",
}
BEAT = {"cpu_usage_percent": 12.5, "memory_usage_percent": 40, "disk_usage_percent": 71.2}
AGENT = {"description": "reads papers", "role": "researcher", "system_prompt": "Be brief.", "enabled_tools": ["search"]}
EVENTS = (
    "agent.status",
    "task.created",
    "task.updated",
    "task.completed",
    "task.failed",
    "worker.online",
    "worker.offline",
    "message.new",
    "notification",
    "system.alert",
)


@dataclass
class Client:
    """Speaks to `http://host:port/api/v1`, as the contract says."""

    url: str
    key: str
    slash: str
    _http: httpx2.Client = field(init=False)

    def __post_init__(self) -> None:
        self._http = httpx2.Client(headers={"Authorization": f"Bearer {self.key}"}, trust_env=False, timeout=60)

    def __call__(self, entry: str, /, *parts: str, query: Json | None = None, **more: Any) -> Any:
        """Call an entry of the contract with its `{…}` filled in; return the answer's JSON, or its bytes."""
        method, _, path = entry.partition(" ")
        for part in parts:
            path = re.sub(r"\{\w+\}", part, path, count=1)
        address = f"{self.url}/api/v1{path.rstrip('/')}{self.slash}"
        answer = self._http.request(method, address, params=query, **more)
        assert answer.is_success, f"{entry}: {answer.status_code} {answer.text}"
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return answer.json() if is_json else answer.content

    def close(self) -> None:
        self._http.close()


@dataclass
class Contract:
    """A running Warren, and who calls it."""

    admin: Client
    node: Client
    sshd: PrivateSshd
    worker_id: str

    @property
    def suffix(self) -> str:
        """Makes names of one run other than those of the next."""
        return "slash" if self.admin.slash else "plain"


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateSshd]:
    with PrivateSshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One control plane and one worker for the file."""
    settings = {**FAST, "WARREN_REVEAL_SECRETS": "true"}
    with Cluster(tmp_path_factory.mktemp("contract"), settings) as running:
        running.broker.start()
        running.start(running.worker("real"))
        yield running


@pytest.fixture(scope="module", params=["", "/"], ids=["plain", "slash"])
def contract(request: pytest.FixtureRequest, cluster: Cluster, sshd: PrivateSshd) -> Iterator[Contract]:
    """The contract's client, with this end of each path."""
    admin, node = (
        Client(cluster.broker.url, cluster.broker.key(role), str(request.param)) for role in ("admin", "worker")
    )
    real = next(worker for worker in cluster.api.call("GET", "/workers")["data"] if worker["name"] == "real")
    yield Contract(admin, node, sshd, real["id"])
    admin.close()
    node.close()


def workers(contract: Contract) -> None:
    admin, node = contract.admin, contract.node
    registered = node("POST /workers/register", json={**NODE, "name": f"node-{contract.suffix}"})
    listed = {worker["id"]: worker for worker in admin("GET /admin/workers")["data"]}
    found = listed[registered["id"]]
    assert found["status"] == "pending"
    assert all(found[name] == value for name, value in NODE.items() if name != "name")
    approval = {"is_approved": True, "group": "default"}
    approved = admin("PATCH /admin/workers/{id}/approve", registered["id"], json=approval)
    assert (approved["approval"], approved["group"]) == ("approved", "default")
    assert node("POST /workers/{id}/heartbeat", registered["id"], json=BEAT)["id"] == registered["id"]
    assert admin("GET /workers/{id}/tasks", registered["id"])["data"] == []
    overview = admin("GET /workers/overview")
    assert overview["total"] == sum(overview["by_approval"].values()) >= 2
    rejected = admin("PATCH /admin/workers/{id}/approve", registered["id"], json={"is_approved": False})
    assert rejected["approval"] == "revoked"


def agents_and_tasks(contract: Contract) -> None:
    call = contract.admin
    # The contract has no endpoint for providers: an agent of its names one that the administrator has added.
    httpx2.post(
        f"{call.url}/api/v1/providers",
        json={"name": "openai", "kind": "openai", "base_url": "http://127.0.0.1:9/v1"},
        headers={"Authorization": f"Bearer {call.key}"},
        trust_env=False,
    )
    form = {**AGENT, "name": f"Reader {contract.suffix}", "llm_provider": "openai", "llm_model": "gpt-5-mini"}
    agent = call("POST /agents/", json={**form, "worker_id": contract.worker_id})
    assert all(agent[name] == value for name, value in form.items())
    assert call("GET /agents/{id}", agent["id"])["name"] == form["name"]
    changed = call("PATCH /agents/{id}", agent["id"], json={"description": "reads books"})
    assert (changed["description"], changed["version"]) == ("reads books", agent["version"] + 1)
    assert call("POST /agents/{id}/stop", agent["id"])["status"] == "offline"
    offline = call("GET /agents/", query={"status_filter": "offline", "role": "researcher"})
    assert agent["id"] in {one["id"] for one in offline["data"]}
    assert call("POST /agents/{id}/start", agent["id"])["status"] in {"idle", "busy"}

    wanted = {
        "title": "summarise",
        "description": "one page",
        "instructions": "Read it and say what it says.",
        "priority": "high",
        "agent_id": agent["id"],
        "deadline": "2099-01-31T12:00:00Z",
        "required_tools": ["search"],
    }
    task = call("POST /tasks/", json=wanted)
    assert all(task[name] == wanted[name] for name in wanted if name != "deadline")
    assert call("GET /tasks/{id}", task["id"])["id"] == task["id"]
    query = {"priority": "high", "agent_id": agent["id"], "limit": 10, "offset": 0}
    assert [one["id"] for one in call("GET /tasks/", query=query)["data"]] == [task["id"]]
    query["status_filter"] = "succeeded"
    assert call("GET /tasks/", query=query)["data"] == []
    assert call("PATCH /tasks/{id}", task["id"], json={"title": "in short"})["title"] == "in short"
    stats = call("GET /tasks/stats")
    assert stats["total"] == sum(stats["by_status"].values()) == sum(stats["by_priority"].values()) > 0
    call("POST /tasks/{id}/cancel", task["id"])
    wait_until("cancelled", lambda: call("GET /tasks/{id}", task["id"])["status"] in {"cancelled", "dead"})
    performance = call("GET /analytics/agents")["data"]
    assert agent["id"] in {one["id"] for one in performance}
    call("DELETE /agents/{id}", agent["id"])
    assert agent["id"] not in {one["id"] for one in call("GET /agents/")["data"]}


def dead_letters(contract: Contract) -> None:
    call = contract.admin
    before = call("GET /dead-letter/stats")["total"]
    # Of a pool that nobody serves, so that those which are retried wait.
    form = {"action": "nowhere", "pool": "nobody", "title": "t"}
    tasks = [call("POST /tasks/", json=form)["id"] for _ in range(4)]
    letters = [call("POST /dead-letter", json={"task_id": task, "reason": "not today"}) for task in tasks]
    assert {letter["cause"] for letter in letters} == {"manual"}
    listed = call("GET /dead-letter", query={"limit": 2, "offset": 1})
    assert (len(listed["data"]), listed["total"]) == (2, before + 4)
    assert call("GET /dead-letter/stats")["total"] == before + 4
    call("POST /dead-letter/{id}/retry", letters[0]["id"])
    call("DELETE /dead-letter/{id}", letters[1]["id"])
    assert call("POST /dead-letter/retry-all")["retried"] == before + 2
    assert not {letter["id"] for letter in letters} & {one["id"] for one in call("GET /dead-letter")["data"]}
    for task in (tasks[0], *tasks[2:]):
        assert call("GET /tasks/{id}", task)["status"] != "dead"
        call("POST /tasks/{id}/cancel", task)


def files(contract: Contract) -> None:
    call = contract.admin
    task = call("POST /tasks/", json={"action": "nowhere", "delay_s": 3600})
    content = bytes(range(256)) * 300
    upload = {"file": ("a report.bin", content, "application/octet-stream")}
    made = call("POST /files/upload", query={"task_id": task["id"]}, files=upload)
    assert call("GET /files/{id}", made["id"])["size_bytes"] == len(content)
    listed = call("GET /files/", query={"task_id": task["id"], "limit": 5})
    assert [one["id"] for one in listed["data"]] == [made["id"]]
    assert call("GET /files/{id}/download", made["id"]) == content
    signed = call("GET /files/{id}/url", made["id"])
    assert signed["expires_in"] == 3600
    assert httpx2.get(signed["url"], trust_env=False).content == content
    call("DELETE /files/{id}", made["id"])
    assert call("GET /files/", query={"task_id": task["id"]})["data"] == []


def secrets_and_connections(contract: Contract) -> None:
    call, sshd = contract.admin, contract.sshd
    name = f"key-{contract.suffix}"
    fields = {"name": name, "value": "canary", "category": "ssh", "expires_at": "2030-01-31T12:00:00Z"}
    secret = call("POST /secrets", json=fields)
    assert "canary" not in json.dumps([secret, call("GET /secrets"), call("GET /secrets/{id}", secret["id"])])
    assert call("GET /secrets/{id}", secret["id"], query={"reveal": "true"})["value"] == "canary"
    assert call("PUT /secrets/{id}", secret["id"], json={"category": "hosts"})["category"] == "hosts"
    rotated = call("POST /secrets/{id}/rotate", secret["id"], json={"value": sshd.private_key})
    assert rotated["version"] == secret["version"] + 1
    expiring = call("GET /secrets/expiring", query={"days": 3650})["data"]
    assert secret["id"] in {one["id"] for one in expiring}

    host = {"name": name, "hostname": "127.0.0.1", "port": 22, "username": sshd.username, "auth_method": "key"}
    connection = call("POST /ssh-connections", json=host)
    assert all(connection[name] == value for name, value in host.items())
    # Which credential belongs to a connection, and which host key, is not in the contract.
    ours = {"port": sshd.port, "secret": name, "host_keys": list(sshd.host_keys)}
    assert call("PUT /ssh-connections/{id}", connection["id"], json=ours)["port"] == sshd.port
    assert call("GET /ssh-connections/{id}", connection["id"])["hostname"] == "127.0.0.1"
    assert connection["id"] in {one["id"] for one in call("GET /ssh-connections")["data"]}
    assert call("POST /ssh-connections/{id}/test", connection["id"])["ok"] is True
    ran = call("POST /ssh-connections/{id}/execute", connection["id"], json={"command": "echo out; echo err >&2"})
    assert (ran["exit_status"], ran["stdout"], ran["stderr"]) == (0, "out\n", "err\n")
    call("DELETE /ssh-connections/{id}", connection["id"])
    call("DELETE /secrets/{id}", secret["id"])


def settings_and_keys(contract: Contract) -> None:
    call = contract.admin
    assert "max_bytes" in call("GET /settings/")["files"]
    call("PUT /settings/{category}/{key}", "tasks", "default_max_attempts", json={"value": 4})
    call("PUT /settings/bulk", json={"settings": {"tasks.default_max_attempts": "3", "tasks.default_timeout_s": "600"}})
    assert call("GET /settings/")["tasks"]["default_max_attempts"]["value"] == 3
    health = call("GET /settings/health")
    assert {"database", "redis", "minio", "mail"} <= health.keys()
    key = call("POST /security/api-keys", json={"name": f"ci-{contract.suffix}", "role": "viewer"})
    assert key["id"] in {one["id"] for one in call("GET /security/api-keys")["data"]}
    call("DELETE /security/api-keys/{id}", key["id"])
    assert call("GET /auth/me")["role"] == "admin"
    assert len(call("GET /admin/audit", query={"limit": 3, "offset": 1})["data"]) == 3


def figures(contract: Contract) -> None:
    call = contract.admin
    assert call("GET /analytics/overview", query={"days": 7})["days"] == 7
    assert len(call("GET /analytics/tasks/timeline", query={"days": 7})["data"]) >= 7
    utilization = call("GET /analytics/workers/utilization")["data"]
    assert contract.worker_id in {one["id"] for one in utilization}
    assert {"status", "service", "version"} <= call("GET /health").keys()
    assert b"warren_tasks" in call("GET /metrics")


def events(contract: Contract) -> None:
    """`/ws`: keepalive, and all ten types; a task that is created and cancelled is heard of."""
    call = contract.admin
    entry = "WS /ws"
    address = f"{call.url.replace('http', 'ws', 1)}/api/v1{entry.split()[1]}{call.slash}"
    with connect(address, proxy=None) as by_message:
        by_message.send(json.dumps({"type": "auth", "token": call.key}))
        by_message.send(json.dumps({"type": "ping"}))
        _until(by_message.recv, "pong")
    with connect(f"{address}?token={call.key}", proxy=None) as socket:
        for event in EVENTS:
            socket.send(json.dumps({"type": "subscribe", "event": event}))
        for _ in EVENTS:
            _until(socket.recv, "subscribed")
        task = call("POST /tasks/", json={"action": "nowhere", "delay_s": 3600})
        assert _until(socket.recv, "task.created")["data"]["task_id"] == task["id"]
        call("POST /tasks/{id}/cancel", task["id"])
        assert _until(socket.recv, "task.updated")["data"]["task_id"] == task["id"]


def _until(receive: Callable[..., Any], kind: str) -> Json:
    """Return the next message of this type."""
    while True:
        message: Json = json.loads(receive(timeout=20))
        if message["type"] == kind:
            return message


STORIES = (
    workers,
    agents_and_tasks,
    dead_letters,
    files,
    secrets_and_connections,
    settings_and_keys,
    figures,
    events,
)


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_the_contracts_client_is_at_home(contract: Contract, story: Callable[[Contract], None]) -> None:
    story(contract)


def test_every_served_entry_is_called_here() -> None:
    """What docs/api.md calls served is exactly what the client above calls."""
    rows = re.findall(r"^\| `([A-Z]+ \S+)` \| served \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    called = re.findall(r'"((?:GET|POST|PUT|PATCH|DELETE|WS) /[^"]*)"', Path(__file__).read_text())
    assert set(called) == set(rows)


def test_what_is_not_served_says_so(cluster: Cluster) -> None:
    """An entry that is planned or out is a 404 that names the path, or a 405 where the path serves others."""
    rows = re.findall(
        r"^\| `([A-Z]+) (\S+)` \| (?:planned|out) \|", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE
    )
    assert len(rows) > 90
    for method, path in rows:
        answer = cluster.api.request(method, re.sub(r"\{\w+\}", "1", path))
        assert answer.status_code in {404, 405}, f"{method} {path}: {answer.status_code}"
        assert answer.json()["error"]["code"] in {"not_found", "method_not_allowed"}
