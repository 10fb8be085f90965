"""Workers over HTTP: registering, being approved, reporting."""

import base64
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from protocols.frames import Consume, Lanes
from protocols.identity import fingerprint, sign_registration, worker_id
from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST, wait_until
from tests.support.raw_worker import RawWorker


def encoded(data: bytes) -> str:
    """Return bytes as a form carries them."""
    return base64.b64encode(data).decode()


class Identity:
    """A worker's keys, and the form with which it registers."""

    def __init__(self) -> None:
        self.signing = Ed25519PrivateKey.generate()
        self.public = self.signing.public_key().public_bytes_raw()
        self.sealing = X25519PrivateKey.generate().public_key().public_bytes_raw()

    @property
    def fingerprint(self) -> str:
        """What an admin compares."""
        return fingerprint(self.public, self.sealing)

    def form(self, name: str = "one", **more: Any) -> dict[str, Any]:
        """Return a registration, signed for its hostname."""
        hostname = "host"
        signature = sign_registration(self.signing, sealing_key=self.sealing, hostname=hostname)
        return {
            "name": name,
            "hostname": hostname,
            "identity_key": encoded(self.public),
            "sealing_key": encoded(self.sealing),
            "signature": encoded(signature),
            **more,
        }


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane without workers."""
    with Cluster(tmp_path_factory.mktemp("fleet"), FAST) as cluster:
        cluster.broker.start()
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Api:
    """An administrator."""
    return cluster.api


@pytest.fixture
def machine(cluster: Cluster) -> Iterator[Api]:
    """Someone with the workers' key."""
    with Api(cluster.broker.url, cluster.broker.key("worker")) as machine:
        yield machine


def test_a_contract_client_needs_no_keys(api: Api, machine: Api) -> None:
    """The published fields alone register a pending worker, which can report and be approved with a group."""
    form = {
        "name": "contract",
        "hostname": "c1",
        "ip_address": "10.0.0.1",
        "max_agents": 4,
        "cpu_cores": 8,
        "memory_total_mb": 16_000,
        "os_info": "Linux",
    }
    answer = machine.request("POST", "/workers/register", form)
    worker = answer.json()
    assert answer.status_code == 201
    assert {name: worker[name] for name in form} == form
    assert (worker["approval"], worker["status"], worker["fingerprint"]) == ("pending", "pending", None)
    beat = {"cpu_usage_percent": 12.5, "memory_usage_percent": 30, "disk_usage_percent": 40}
    reported = machine.call("POST", f"/workers/{worker['id']}/heartbeat", beat)
    assert (reported["heartbeat"]["cpu_percent"], reported["status"]) == (12.5, "pending")
    approved = api.call("PATCH", f"/admin/workers/{worker['id']}/approve", {"is_approved": True, "group": "lab"})
    assert (approved["approval"], approved["group"], approved["status"]) == ("approved", "lab", "online")
    assert approved in api.call("GET", "/admin/workers")["data"]


def test_registering_again_is_the_same_worker(api: Api, machine: Api) -> None:
    """With the same identity key facts change, and neither the id nor the approval nor the pools do."""
    identity = Identity()
    first = machine.request("POST", "/workers/register", identity.form(cpu_cores=2))
    api.approve(first.json()["id"], identity.fingerprint)
    again = machine.request("POST", "/workers/register", identity.form("renamed", cpu_cores=4, pools=["other"]))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"] == worker_id(identity.public)
    shown = {name: again.json()[name] for name in ("name", "cpu_cores", "approval", "pools")}
    assert shown == {"name": "renamed", "cpu_cores": 4, "approval": "approved", "pools": ["default"]}


@pytest.mark.parametrize("broken", ["signature", "sealing_key", "hostname"])
def test_nobody_registers_for_another(machine: Api, broken: str) -> None:
    """A registration whose signature does not fit its keys and hostname is refused with 401."""
    form = Identity().form()
    form[broken] = Identity().form()[broken] if broken != "hostname" else "elsewhere"
    assert machine.request("POST", "/workers/register", form).status_code == 401


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "overview"},
        {"name": ".."},
        {"name": "x" * 129},
        {"pools": []},
        {"pools": ["Not A Name"]},
        {"pools": ["ssh"]},
        {"cpu_cores": -1},
        {"memory_total_mb": 2**60},
        {"identity_key": None},
        {"signature": None},
        {"identity_key": "no base64"},
        {"sealing_key": encoded(b"short")},
    ],
)
def test_a_registration_is_checked(machine: Api, wrong: dict[str, Any]) -> None:
    """A form that makes no sense is refused and leaves no worker."""
    identity = Identity()
    assert machine.request("POST", "/workers/register", {**identity.form(), **wrong}).status_code == 422
    assert machine.call("POST", "/workers/register", identity.form())["approval"] == "pending"


def test_approval_holds_for_the_fingerprint_that_was_seen(api: Api, machine: Api) -> None:
    """Keys that changed between looking and approving are a conflict; an approved worker cannot change them."""
    identity = Identity()
    worker = machine.call("POST", "/workers/register", identity.form())
    assert worker["fingerprint"] == identity.fingerprint
    seen = worker["fingerprint"]
    identity.sealing = X25519PrivateKey.generate().public_key().public_bytes_raw()
    machine.call("POST", "/workers/register", identity.form())
    path = f"/admin/workers/{worker['id']}/approve"
    assert api.request("PATCH", path, {"fingerprint": seen}).status_code == 409
    assert api.call("GET", f"/workers/{worker['id']}")["approval"] == "pending"
    assert api.call("PATCH", path, {"fingerprint": identity.fingerprint})["approval"] == "approved"
    identity.sealing = X25519PrivateKey.generate().public_key().public_bytes_raw()
    assert machine.request("POST", "/workers/register", identity.form()).status_code == 409


def test_a_decision_can_be_changed(api: Api, machine: Api) -> None:
    """Pending becomes rejected; approved becomes revoked; both can be approved again; all of it is in the journal."""
    worker = machine.call("POST", "/workers/register", Identity().form())
    path = f"/admin/workers/{worker['id']}/approve"
    states = [api.call("PATCH", path, {"is_approved": wanted})["approval"] for wanted in (False, True, False, True)]
    assert states == ["rejected", "approved", "revoked", "approved"]
    actions = [entry["action"] for entry in api.call("GET", "/admin/audit")["data"] if entry["object"] == worker["id"]]
    assert actions == ["worker.approved", "worker.rejected", "worker.approved", "worker.rejected"]


@pytest.mark.parametrize("wrong", [{"group": "A B"}, {"pools": ["w"]}, {"pools": []}, {"is_approved": "perhaps"}])
def test_a_decision_is_checked(api: Api, machine: Api, wrong: dict[str, Any]) -> None:
    """Group and pools must be names; nothing is decided otherwise."""
    worker = machine.call("POST", "/workers/register", Identity().form())
    assert api.request("PATCH", f"/admin/workers/{worker['id']}/approve", wrong).status_code == 422
    assert api.call("GET", f"/workers/{worker['id']}")["approval"] == "pending"


def test_a_name_finds_a_worker_unless_several_have_it(api: Api, machine: Api) -> None:
    """{ref} takes a name; an ambiguous one is a conflict, an unknown one not found."""
    worker = machine.call("POST", "/workers/register", Identity().form("alone"))
    assert api.call("GET", "/workers/alone")["id"] == worker["id"]
    machine.call("POST", "/workers/register", Identity().form("alone"))
    assert api.request("GET", "/workers/alone").status_code == 409
    assert api.request("GET", "/workers/nobody").status_code == 404


def test_a_rejected_worker_reports_to_nobody(api: Api, machine: Api) -> None:
    """Its heartbeat is refused as `worker_refused`, and one with impossible numbers always."""
    worker = machine.call("POST", "/workers/register", {"name": "unwanted"})
    path, beat = f"/workers/{worker['id']}/heartbeat", {"cpu_usage_percent": 1, "memory_usage_percent": 1}
    assert machine.request("POST", path, {**beat, "cpu_usage_percent": -1}).status_code == 422
    api.call("PATCH", f"/admin/workers/{worker['id']}/approve", {"is_approved": False})
    answer = machine.request("POST", path, beat)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "worker_refused")


def test_workers_are_chosen_by_status_pool_and_group(api: Api, machine: Api) -> None:
    """The three names of the status filter mean the same; filters go together, and the total counts what is meant."""
    for name, pools in (("f1", ["filters", "gpu"]), ("f2", ["filters"]), ("f3", ["filters-too"])):
        worker = machine.call("POST", "/workers/register", {"name": name, "pools": pools})
        if name != "f2":
            api.call("PATCH", f"/admin/workers/{worker['id']}/approve", {"group": "lab"})

    def chosen(query: str) -> set[str]:
        pages = [api.call("GET", f"{path}?limit=500&{query}") for path in ("/workers", "/admin/workers")]
        assert pages[0] == pages[1]
        assert pages[0]["total"] == len(pages[0]["data"])
        return {worker["name"] for worker in pages[0]["data"]}

    assert chosen("pool=filters") == {"f1", "f2"}
    assert chosen("group=lab&pool=filters") == {"f1"}
    assert {"f1", "f3"} <= chosen("group=lab")
    assert chosen("pool=nobody-serves-it") == set()
    for name in ("status", "state", "status_filter"):
        assert chosen(f"{name}=pending&pool=filters") == {"f2"}
        assert chosen(f"{name}=offline&pool=filters") == {"f1"}
    beat = {"cpu_usage_percent": 1, "memory_usage_percent": 1}
    machine.call("POST", "/workers/f1/heartbeat", beat)
    assert chosen("status=online&pool=gpu") == {"f1"}


@pytest.mark.parametrize("wrong", ["status=approved", "status=x", "state=", "pool=Not+A+Name", "group=" + "x" * 129])
def test_filters_of_workers_are_checked(api: Api, wrong: str) -> None:
    """What no worker can be is refused."""
    assert api.request("GET", f"/workers?{wrong}").status_code == 422


def test_the_overview_counts_the_fleet(tmp_path_factory: pytest.TempPathFactory) -> None:
    """By status, presence, approval and pool; slots and load are those of the workers that are here."""
    with Cluster(tmp_path_factory.mktemp("overview"), FAST) as cluster:
        cluster.broker.start()
        empty = cluster.api.call("GET", "/workers/overview")
        assert (empty["total"], empty["running"], empty["slots"], empty["pools"]) == (0, 0, {}, {})
        assert (empty["cpu_percent"], empty["by_status"]["online"], empty["by_approval"]["pending"]) == (None, 0, 0)
        one, two = cluster.worker("one", slots_python="3"), cluster.worker("two", slots_python="2")
        cluster.start(one, two)
        with Api(cluster.broker.url, cluster.broker.key("worker")) as machine:
            machine.call("POST", "/workers/register", {"name": "waits", "pools": ["gpu"]})
        wait_until(
            "both have reported",
            lambda: cluster.api.call("GET", "/workers/overview")["slots"].get("python") == {"busy": 0, "total": 5},
        )
        cluster.api.submit("effect", str(cluster.effects.path), "long", 5.0, worker="one")
        wait_until("it runs", lambda: cluster.api.call("GET", "/workers/overview")["running"] == 1)
        cluster.api.call("POST", "/workers/two/drain")
        seen = cluster.api.call("GET", "/workers/overview")
        assert seen["total"] == 3
        assert (seen["by_status"]["online"], seen["by_status"]["draining"], seen["by_status"]["pending"]) == (1, 1, 1)
        assert (seen["by_presence"]["offline"], seen["by_approval"]["approved"]) == (1, 2)
        assert seen["pools"] == {"default": 2}
        assert 0 <= seen["memory_percent"] <= 100
        wait_until("it has run", lambda: cluster.api.call("GET", "/workers/overview")["running"] == 0)


def test_a_workers_tasks_are_those_that_only_it_may_run(api: Api, machine: Api, cluster: Cluster) -> None:
    """Unfinished ones, newest first, also for the worker itself; none of other workers or of its pools."""
    for name in ("t1", "t2"):
        machine.call("POST", "/workers/register", {"name": name})
    ids = api.submit_all([{"action": "x", "worker": "t1", "title": str(number)} for number in range(3)])
    api.submit("x", worker="t2")
    api.submit("x")
    api.cancel(ids[1])
    page = machine.call("GET", "/workers/t1/tasks")
    assert page == api.call("GET", "/workers/t1/tasks")
    assert ([task["id"] for task in page["data"]], page["total"]) == ([ids[2], ids[0]], 2)
    assert page["data"][0]["title"] == "2"
    first = api.call("GET", "/workers/t1/tasks?limit=1")
    assert [task["id"] for task in api.call("GET", f"/workers/t1/tasks?cursor={first['next_cursor']}")["data"]] == ids[
        :1
    ]
    assert machine.request("GET", "/workers/nobody/tasks").status_code == 404
    with Api(cluster.broker.url, None) as stranger:
        assert stranger.request("GET", "/workers/t1/tasks").status_code == 401


def test_a_workers_tasks_include_those_of_its_agents(api: Api, machine: Api, cluster: Cluster) -> None:
    """Whichever queue they wait in, and once if they are pinned as well."""
    worker = machine.call("POST", "/workers/register", {"name": "has-agent"})
    ids = api.submit_all([{"action": "x"}, {"action": "x", "worker": "has-agent"}, {"action": "x"}])
    cluster.broker.stop()
    with closing(sqlite3.connect(cluster.broker.data_dir / "warren.db")) as database:
        database.execute(
            "INSERT INTO agents (id, name, enabled_tools, pool, worker_id, status, version, created_at, created_by,"
            " updated_at) VALUES ('agent_1', 'a', '[]', 'default', ?, 'idle', 1, 1, 'test', 1)",
            (worker["id"],),
        )
        database.executemany("UPDATE tasks SET agent_id = 'agent_1' WHERE id = ?", [(ids[0],), (ids[1],)])
        database.commit()
    cluster.broker.start()
    assert [task["id"] for task in api.call("GET", "/workers/has-agent/tasks")["data"]] == [ids[1], ids[0]]


def test_draining_is_for_admins_and_told(api: Api, machine: Api, cluster: Cluster) -> None:
    """The worker says who drained it and when; audit log and journal do too; a worker without a session as well."""
    worker = machine.call("POST", "/workers/register", {"name": "contract-drained"})
    path = f"/workers/{worker['id']}"
    beat = {"cpu_usage_percent": 1, "memory_usage_percent": 1}
    api.call("PATCH", f"/admin/workers/{worker['id']}/approve", {})
    machine.call("POST", f"{path}/heartbeat", beat)
    key = api.call("POST", "/security/api-keys", {"name": "op", "role": "operator"})["key"]
    with Api(cluster.broker.url, key) as operator:
        assert operator.request("POST", f"{path}/drain").status_code == 403
    for verb in ("drain", "resume"):
        assert machine.request("POST", f"{path}/{verb}").status_code == 403
        assert api.request("POST", f"/workers/nobody/{verb}").status_code == 404
        assert api.request("POST", f"{path}/{verb}", {"why": "x"}).status_code == 422
    drained = api.call("POST", f"{path}/drain", {"reason": "a new disk"})
    assert (drained["status"], drained["presence"], drained["drained_by"]) == ("draining", "draining", "admin")
    assert drained == api.call("POST", f"{path}/drain")
    assert drained["drained_at"]
    resumed = api.call("POST", f"{path}/resume")
    assert (resumed["status"], resumed["drained_at"], resumed["drained_by"]) == ("online", None, None)
    entries = [entry for entry in api.call("GET", "/admin/audit")["data"] if entry["object"] == worker["id"]]
    assert [entry["action"] for entry in entries[:2]] == ["worker.resumed", "worker.draining"]
    assert entries[1]["data"] == {"reason": "a new disk"}
    assert cluster.ledger.count_events("worker.draining") == cluster.ledger.count_events("worker.resumed") == 1


def test_a_worker_may_ask_for_a_lane_that_was_just_taken_away(cluster: Cluster, api: Api) -> None:
    """It gets nothing from it and keeps its session; a lane that was never its own still ends that."""
    with RawWorker(cluster.broker, "slow-to-hear") as worker:
        assert "q.t.default.python" in worker.open().lanes
        worker.send(Consume(lane="q.t.default.ssh", tag=1, prefetch=1))
        wait_until("it consumes", lambda: api.call("GET", "/queues/q.t.default.ssh")["consumers"] == 1)
        api.call("POST", f"/workers/{worker.id}/drain")
        assert worker.receive(Lanes).lanes == ()
        assert api.call("GET", "/queues/q.t.default.ssh")["consumers"] == 0
        worker.send(Consume(lane="q.t.default.python", tag=2, prefetch=1))
        assert not worker.is_thrown_out()
        assert api.call("GET", "/queues/q.t.default.python")["consumers"] == 0
        worker.send(Consume(lane="q.t.default.unheard-of", tag=3, prefetch=1))
        assert worker.is_thrown_out()


def test_revoking_ends_a_real_workers_session(cluster: Cluster, api: Api) -> None:
    """A worker whose approval is revoked leaves at once, with the exit status that keeps it from coming back."""
    worker = cluster.worker("revoked")
    worker.start()
    wait_until("it reports", lambda: (api.worker(worker.id) or {}).get("heartbeat"))
    assert api.call("GET", f"/workers/{worker.id}")["status"] == "online"
    revoked = api.call("PATCH", f"/admin/workers/{worker.id}/approve", {"is_approved": False})
    assert (revoked["approval"], revoked["status"]) == ("revoked", "revoked")
    assert worker.ended() == 77


def test_a_stolen_worker_key_cannot_fill_the_database(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Beyond a thousand pending workers registration is refused for now, until an admin has decided about one."""
    with Cluster(tmp_path_factory.mktemp("flood"), FAST) as cluster:
        cluster.broker.start()
        with Api(cluster.broker.url, cluster.broker.key("worker")) as machine:
            for number in range(1000):
                worker = machine.call("POST", "/workers/register", {"name": f"w{number}"})
            answer = machine.request("POST", "/workers/register", {"name": "one-more"})
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
            cluster.api.call("PATCH", f"/admin/workers/{worker['id']}/approve", {"is_approved": False})
            assert machine.request("POST", "/workers/register", {"name": "one-more"}).status_code == 201
