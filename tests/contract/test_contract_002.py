"""A plain HTTP client written from contract 002's text alone: the part of it that the kernel serves.

Paths, methods and body fields are the contract's; each is tried with and without a trailing slash.
"""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.support.cluster import Cluster
from tests.support.processes import FAST

WORKER = {
    "name": "node-1",
    "hostname": "node-1.example",
    "ip_address": "192.0.2.7",
    "max_agents": 4,
    "cpu_cores": 8,
    "memory_total_mb": 16384,
    "os_info": "Debian 12",
}
BEAT = {"cpu_usage_percent": 12.5, "memory_usage_percent": 40, "disk_usage_percent": 71.2}


class Client:
    """Speaks to `http://host:port/api/v1`, as the contract says."""

    def __init__(self, url: str, key: str, slash: str) -> None:
        self._http = httpx2.Client(headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30)
        self._base = f"{url}/api/v1"
        self._slash = slash

    def __call__(self, method: str, path: str, body: dict[str, Any] | None = None, **query: Any) -> Any:
        answer = self._http.request(method, f"{self._base}{path}{self._slash}", json=body, params=query)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def upload(self, name: str, content: bytes, **query: Any) -> Any:
        url = f"{self._base}/files/upload{self._slash}"
        answer = self._http.post(url, files={"file": (name, content)}, params=query)
        assert answer.is_success, answer.text
        return answer.json()

    def download(self, path: str) -> bytes:
        return bytes(self._http.get(f"{self._base}{path}{self._slash}").raise_for_status().content)

    def close(self) -> None:
        self._http.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One control plane for the file."""
    with Cluster(tmp_path_factory.mktemp("contract"), FAST) as running:
        running.broker.start()
        yield running


@pytest.fixture(params=["", "/"], ids=["plain", "slash"])
def slash(request: pytest.FixtureRequest) -> str:
    """The end of each path."""
    return str(request.param)


@pytest.fixture
def admin(cluster: Cluster, slash: str) -> Iterator[Client]:
    """An administrator."""
    client = Client(cluster.broker.url, cluster.broker.key("admin"), slash)
    yield client
    client.close()


@pytest.fixture
def node(cluster: Cluster, slash: str) -> Iterator[Client]:
    """A worker node."""
    client = Client(cluster.broker.url, cluster.broker.key("worker"), slash)
    yield client
    client.close()


def test_a_node_registers_is_approved_and_reports(admin: Client, node: Client) -> None:
    """POST /workers/register, GET /admin/workers, PATCH …/approve, POST …/heartbeat."""
    registered = node("POST", "/workers/register", WORKER)
    listed = {worker["id"]: worker for worker in admin("GET", "/admin/workers")["data"]}
    assert listed[registered["id"]]["status"] == "pending"
    assert {field: listed[registered["id"]][field] for field in WORKER} == WORKER
    approval = {"is_approved": True, "group": "default"}
    approved = admin("PATCH", f"/admin/workers/{registered['id']}/approve", approval)
    assert (approved["approval"], approved["group"]) == ("approved", "default")
    beat = node("POST", f"/workers/{registered['id']}/heartbeat", BEAT)
    assert beat["id"] == registered["id"]


def test_a_node_is_rejected(admin: Client, node: Client) -> None:
    """PATCH …/approve with `is_approved: false`."""
    registered = node("POST", "/workers/register", WORKER)
    rejected = admin("PATCH", f"/admin/workers/{registered['id']}/approve", {"is_approved": False})
    assert rejected["approval"] == "rejected"


def test_tasks_are_created_listed_read_and_cancelled(admin: Client) -> None:
    """The task paths, and the list's `status_filter`, `priority`, `limit` and `offset`."""
    made = admin("POST", "/tasks", {"action": "noop", "title": "t", "description": "d", "priority": "high"})
    assert (made["title"], made["description"], made["priority"]) == ("t", "d", "high")
    assert admin("GET", f"/tasks/{made['id']}")["id"] == made["id"]
    found = admin("GET", "/tasks", status_filter=made["status"], priority="high", limit=100, offset=0)
    assert made["id"] in {task["id"] for task in found["data"]}
    assert admin("POST", f"/tasks/{made['id']}/cancel")["status"] == "cancelled"


def test_agents_are_kept_started_and_stopped(admin: Client, slash: str) -> None:
    """The agent paths with the fields of POST /agents, and the list's `status_filter` and `role`."""
    fields = {
        "name": f"Agent {len(slash)}",
        "description": "d",
        "role": "analyst",
        "llm_provider": None,
        "llm_model": "m",
        "system_prompt": "s",
        "enabled_tools": ["search"],
        "worker_id": None,
    }
    made = admin("POST", "/agents", fields)
    assert {field: made[field] for field in fields} == fields
    assert admin("GET", f"/agents/{made['id']}")["name"] == fields["name"]
    assert admin("PATCH", f"/agents/{made['id']}", {"llm_model": "other"})["llm_model"] == "other"
    assert admin("POST", f"/agents/{made['id']}/stop")["status"] == "offline"
    stopped = admin("GET", "/agents", status_filter="offline", role="analyst")["data"]
    assert made["id"] in {agent["id"] for agent in stopped}
    assert admin("POST", f"/agents/{made['id']}/start")["status"] == "idle"
    assert admin("DELETE", f"/agents/{made['id']}") is None


def test_a_task_is_given_to_an_agent(admin: Client, slash: str) -> None:
    """All fields of POST /tasks, `agent_id` in the list, GET /tasks/stats, and PATCH."""
    name = f"models{len(slash)}"
    admin("POST", "/providers", {"name": name, "base_url": "http://127.0.0.1:9/v1"})
    profile = {"name": f"Worker {len(slash)}", "llm_provider": name, "llm_model": "m", "enabled_tools": ["search"]}
    agent = admin("POST", "/agents", profile)
    fields = {
        "title": "t",
        "description": "d",
        "instructions": "Say hello.",
        "priority": "high",
        "agent_id": agent["id"],
        "deadline": "2100-01-01T00:00:00Z",
        "required_tools": ["search"],
    }
    made = admin("POST", "/tasks", fields)
    assert {field: made[field] for field in fields if field != "deadline"} == {
        field: value for field, value in fields.items() if field != "deadline"
    }
    found = admin("GET", "/tasks", agent_id=agent["id"], status_filter=made["status"], limit=10, offset=0)
    assert [task["id"] for task in found["data"]] == [made["id"]]
    stats = admin("GET", "/tasks/stats")
    assert (stats["by_status"][made["status"]] > 0, stats["by_priority"]["high"] > 0) == (True, True)
    assert admin("PATCH", f"/tasks/{made['id']}", {"title": "new", "priority": "low"})["priority"] == "low"
    assert admin("POST", f"/tasks/{made['id']}/cancel")["status"] == "cancelled"


def test_dead_letters_are_listed(admin: Client) -> None:
    """GET /dead-letter with `limit` and `offset`."""
    assert admin("GET", "/dead-letter", limit=10, offset=0)["data"] == []


def test_connections_and_secrets_are_kept(admin: Client, slash: str) -> None:
    """The fields of POST /secrets and POST /ssh-connections; a secret's value is never given back."""
    name = f"contract{len(slash)}"
    secret = admin("POST", "/secrets", {"name": name, "value": "canary", "category": "ssh"})
    assert "canary" not in str(admin("GET", f"/secrets/{secret['id']}"))
    host = {"name": name, "hostname": "192.0.2.9", "port": 22, "username": "deploy", "auth_method": "key"}
    connection = admin("POST", "/ssh-connections", host)
    assert {field: connection[field] for field in host} == host
    assert admin("PUT", f"/ssh-connections/{connection['id']}", {"port": 2222})["port"] == 2222
    admin("DELETE", f"/ssh-connections/{connection['id']}")
    admin("DELETE", f"/secrets/{secret['id']}")


def test_secrets_are_rotated_and_watched(admin: Client, slash: str) -> None:
    """POST /secrets with `expires_at`, POST …/rotate, GET /secrets/expiring with `days`; PUT and DELETE."""
    form = {"name": f"rotated{len(slash)}", "value": "canary", "expires_at": "2020-01-01T00:00:00Z"}
    secret = admin("POST", "/secrets", form)
    admin("POST", f"/secrets/{secret['id']}/rotate", {"value": "another canary"})
    assert secret["id"] in {found["id"] for found in admin("GET", "/secrets/expiring", days=30)["data"]}
    assert admin("PUT", f"/secrets/{secret['id']}", {"category": "llm"})["category"] == "llm"
    assert "canary" not in str(admin("GET", "/secrets"))
    admin("DELETE", f"/secrets/{secret['id']}")


def test_files_are_kept(admin: Client) -> None:
    """The file paths: upload with `task_id`, list with `task_id` and `limit`, metadata, download, URL, delete."""
    task = admin("POST", "/tasks", {"action": "noop"})
    kept = admin.upload("notes.txt", b"canary", task_id=task["id"])
    assert [found["id"] for found in admin("GET", "/files", task_id=task["id"], limit=10)["data"]] == [kept["id"]]
    assert admin("GET", f"/files/{kept['id']}") == kept
    assert admin.download(f"/files/{kept['id']}/download") == b"canary"
    url = admin("GET", f"/files/{kept['id']}/url")["url"]
    assert httpx2.get(url, trust_env=False).content == b"canary"
    admin("DELETE", f"/files/{kept['id']}")
    admin("POST", f"/tasks/{task['id']}/cancel")


def test_a_connection_is_tested(admin: Client, slash: str) -> None:
    """POST …/test and …/execute answer, here without a worker that could do it."""
    host = {"name": f"tested{len(slash)}", "hostname": "192.0.2.9", "username": "deploy"}
    connection = admin("POST", "/ssh-connections", host)
    assert admin("POST", f"/ssh-connections/{connection['id']}/test", {"timeout_s": 1})["ok"] is False
    begun = admin("POST", f"/ssh-connections/{connection['id']}/execute", {"command": "uptime", "wait_s": 0})
    admin("POST", f"/tasks/{begun['task']['id']}/cancel")
    admin("DELETE", f"/ssh-connections/{connection['id']}")


def test_health_needs_no_key(cluster: Cluster) -> None:
    """GET /health tells status, service and version."""
    answer = httpx2.get(f"{cluster.broker.url}/api/v1/health", trust_env=False).json()
    assert {"status", "service", "version"} <= answer.keys()
