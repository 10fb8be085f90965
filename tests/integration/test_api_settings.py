"""Settings over HTTP: reading, changing one and many, and the health of what Warren needs."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST, wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane without workers."""
    with Cluster(tmp_path_factory.mktemp("settings"), FAST) as cluster:
        cluster.broker.start()
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Iterator[Api]:
    """An administrator of a control plane whose settings are the defaults, before and after."""
    yield cluster.api
    listed = cluster.api.call("GET", "/settings")
    defaults = {f"{one}.{key}": held["default"] for one, keys in listed.items() for key, held in keys.items()}
    cluster.api.call("PUT", "/settings/bulk", {"settings": defaults})


def test_all_settings_are_listed_by_category(api: Api) -> None:
    """Each has its value, default, type and description."""
    listed = api.call("GET", "/settings/")
    assert listed["tasks"]["default_max_attempts"] == {
        "value": 3,
        "default": 3,
        "type": "integer",
        "description": "How often a task may fail.",
        "updated_at": None,
        "updated_by": None,
    }
    assert listed["api"]["public_docs"]["type"] == "boolean"
    assert listed["tasks"]["default_agent"]["type"] == "string"


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_one_setting_is_changed(api: Api, method: str) -> None:
    """The answer is the setting as it is now, with who changed it and when; the list and the audit log agree."""
    changed = api.call(method, "/settings/tasks/default_priority", {"value": "high"})
    assert (changed["value"], changed["default"], changed["updated_by"]) == ("high", "normal", "admin")
    assert changed["updated_at"].endswith("Z")
    assert api.call("GET", "/settings")["tasks"]["default_priority"] == changed
    (entry,) = api.call("GET", "/admin/audit?limit=1")["data"]
    assert (entry["action"], entry["object"], entry["data"]) == (
        "setting.change",
        "tasks.default_priority",
        {"value": "high"},
    )


def test_many_settings_are_changed_as_the_contract_sends_them(api: Api) -> None:
    """Values that come as texts are kept in the settings' own types."""
    form = {"settings": {"tasks.default_max_attempts": "5", "tasks.default_timeout_s": "90", "api.public_docs": "true"}}
    listed = api.call("PUT", "/settings/bulk", form)
    assert listed == api.call("GET", "/settings")
    assert listed["tasks"]["default_max_attempts"]["value"] == 5
    assert listed["tasks"]["default_timeout_s"]["value"] == 90.0
    assert listed["api"]["public_docs"]["value"] is True


@pytest.mark.parametrize(
    ("path", "form", "status", "field"),
    [
        ("/settings/tasks/default_max_attempts", {"value": 101}, 422, "tasks.default_max_attempts"),
        ("/settings/tasks/default_max_attempts", {"value": "hunter2"}, 422, "tasks.default_max_attempts"),
        ("/settings/tasks/default_max_attempts", {}, 422, "value"),
        ("/settings/tasks/default_max_attempts", {"value": 1, "more": 1}, 422, "more"),
        ("/settings/tasks/nothing", {"value": 1}, 404, "tasks.nothing"),
        ("/settings/nothing/default_agent", {"value": 1}, 404, "nothing.default_agent"),
        ("/settings/bulk", {"settings": {}}, 422, "settings"),
        ("/settings/bulk", {}, 422, "settings"),
        ("/settings/bulk", {"settings": {f"x.{n}": 1 for n in range(101)}}, 422, "settings"),
        ("/settings/bulk", {"settings": {"tasks.default_max_attempts": 9, "x.y": 1}}, 404, "x.y"),
        (
            "/settings/bulk",
            {"settings": {"tasks.default_max_attempts": 9, "tasks.default_priority": "urgent"}},
            422,
            "tasks.default_priority",
        ),
    ],
)
def test_a_refusal_names_what_is_wrong_and_changes_nothing(
    api: Api, path: str, form: dict[str, Any], status: int, field: str
) -> None:
    """The error body names the setting, and never quotes the value."""
    before = api.call("GET", "/settings")
    answer = api.request("PUT", path, form)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)
    assert "hunter2" not in answer.text
    assert api.call("GET", "/settings") == before


@pytest.mark.parametrize("role", ["viewer", "operator", "worker"])
@pytest.mark.parametrize(
    ("method", "path", "form"),
    [
        ("GET", "/settings", None),
        ("GET", "/settings/health", None),
        ("PUT", "/settings/tasks/default_priority", {"value": "low"}),
        ("PUT", "/settings/bulk", {"settings": {"tasks.default_priority": "low"}}),
    ],
)
def test_settings_are_for_admins(cluster: Cluster, role: str, method: str, path: str, form: Any) -> None:
    """No other role reads or changes them."""
    key = cluster.broker.key("worker") if role == "worker" else key_of(cluster, role)
    with Api(cluster.broker.url, key) as other:
        assert other.request(method, path, form).status_code == 403


def test_a_change_outlives_a_restart(cluster: Cluster, api: Api) -> None:
    """The next process has the value, and knows who set it."""
    changed = api.call("PUT", "/settings/files/url_expires_s", {"value": 120})
    assert cluster.broker.stop() == 0
    cluster.broker.start()
    assert api.call("GET", "/settings")["files"]["url_expires_s"] == changed


def test_health_tells_of_each_part(cluster: Cluster, api: Api) -> None:
    """Without workers nothing is wrong; one that is approved and away is noticed, one that is here is well."""
    health = api.call("GET", "/settings/health")
    assert health["database"]["status"] == "ok"
    assert health["storage"]["numbers"]["free_bytes"] > 0
    assert {name: health[name]["status"] for name in ("workers", "redis", "minio", "mail")} == dict.fromkeys(
        ("workers", "redis", "minio", "mail"), "not_configured"
    )
    worker = cluster.worker("one")
    worker.start()
    health = api.call("GET", "/settings/health")
    assert (health["workers"]["status"], health["workers"]["numbers"]["online"]) == ("ok", 1)
    assert worker.stop() == 0
    wait_until(
        "the worker's absence shows",
        lambda: api.call("GET", "/settings/health")["workers"]["status"] == "failing",
    )
    assert api.call("GET", "/settings/health")["status"] == "degraded"


def key_of(cluster: Cluster, role: str) -> str:
    """Return a key of this role, made at its first use."""
    path = cluster.directory / f"{role}.key"
    if not path.exists():
        path.write_text(cluster.api.call("POST", "/security/api-keys", {"name": role, "role": role})["key"])
    return path.read_text()
