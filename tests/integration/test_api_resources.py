"""Providers, SSH connections and secrets over HTTP."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST

HOST_KEY = "SHA256:" + "A" * 43
FORMS: dict[str, dict[str, Any]] = {
    "/providers": {"base_url": "http://127.0.0.1:9/v1"},
    "/ssh-connections": {"hostname": "127.0.0.1", "username": "root", "host_keys": [HOST_KEY]},
    "/secrets": {"value": "hunter2"},
}
PATHS = list(FORMS)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane without workers."""
    with Cluster(tmp_path_factory.mktemp("resources"), FAST) as cluster:
        cluster.broker.start()
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Iterator[Api]:
    """An administrator of a control plane that has no resources."""
    yield cluster.api
    for path in PATHS:
        for row in cluster.api.call("GET", f"{path}?limit=500")["data"]:
            assert cluster.api.request("DELETE", f"{path}/{row['id']}").status_code == 204


@pytest.mark.parametrize("path", PATHS)
def test_a_resource_lives_from_post_to_delete(api: Api, path: str) -> None:
    """It is created with a Location, found by id and name, changed by PUT and PATCH alike, listed, and deleted."""
    answer = api.request("POST", path, {"name": "one", **FORMS[path]})
    made = answer.json()
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/v1{path}/{made['id']}"
    assert api.call("GET", f"{path}/one") == api.call("GET", f"{path}/{made['id']}") == made
    assert api.call("PUT", f"{path}/one", {"name": "two"})["id"] == made["id"]
    assert api.call("PATCH", f"{path}/two", {"name": "three"})["name"] == "three"
    assert [row["name"] for row in api.call("GET", path)["data"]] == ["three"]
    assert api.request("DELETE", f"{path}/three").status_code == 204
    assert api.request("GET", f"{path}/three").status_code == 404


@pytest.mark.parametrize("path", PATHS)
def test_names_are_unique(api: Api, path: str) -> None:
    """A name in use is refused with 409 that names the field, for a new resource and for a change."""
    for name in ("one", "two"):
        api.call("POST", path, {"name": name, **FORMS[path]})
    for answer in (
        api.request("POST", path, {"name": "one", **FORMS[path]}),
        api.request("PATCH", f"{path}/two", {"name": "one"}),
    ):
        assert (answer.status_code, answer.json()["error"]["field"]) == (409, "name")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", ["", "Upper", "a b", "-a", "a_b", "x" * 64, "ssh", "python", "w", "a/b", "é"])
def test_names_fit_into_lanes(api: Api, path: str, name: str) -> None:
    """What cannot stand in a lane's name is refused with the field and what would be right."""
    answer = api.request("POST", path, {"name": name, **FORMS[path]})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "name")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("change", [{"name": None}, {"nmae": "x"}, [], None])
def test_a_change_is_checked_like_a_new_one(api: Api, path: str, change: object) -> None:
    """Unknown fields, null for what cannot be null and no object at all change nothing."""
    made = api.call("POST", path, {"name": "one", **FORMS[path]})
    assert api.request("PATCH", f"{path}/one", change).status_code == 422
    assert api.call("GET", f"{path}/one") == made


@pytest.mark.parametrize(
    "wrong",
    [
        {"base_url": "ftp://host"},
        {"base_url": "host/v1"},
        {"base_url": "http://"},
        {"base_url": "http://user:secret@host/v1"},
        {"base_url": "http://host/v1?key=secret"},
        {"base_url": "http://host/a b"},
        {"base_url": "http://[::1"},
        {"base_url": "http://host:99999/"},
        {"kind": "anthropic"},
        {"models": "gpt"},
    ],
)
def test_a_provider_is_checked(api: Api, wrong: dict[str, Any]) -> None:
    """A provider that could not be called is refused, with the field that is wrong."""
    answer = api.request("POST", "/providers", {"name": "one", **FORMS["/providers"], **wrong})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"].split(".")[0] in wrong


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": 0},
        {"port": 65536},
        {"port": "ssh"},
        {"hostname": "-oProxyCommand=x"},
        {"hostname": "a b"},
        {"hostname": ""},
        {"username": "a\nb"},
        {"auth_method": "none"},
        {"host_keys": ["SHA256:short"]},
        {"host_keys": ["MD5:" + "a" * 43]},
        {"host_keys": [HOST_KEY] * 33},
    ],
)
def test_a_connection_is_checked(api: Api, wrong: dict[str, Any]) -> None:
    """A connection that could not be made is refused, with the field that is wrong."""
    answer = api.request("POST", "/ssh-connections", {"name": "one", **FORMS["/ssh-connections"], **wrong})
    assert answer.status_code == 422
    assert answer.json()["error"]["field"].split(".")[0] in wrong


def test_a_secrets_value_never_comes_out(api: Api, cluster: Cluster) -> None:
    """No answer, no log line and no database file shows a value; a new value makes a new version."""
    value = "hunter2-is-the-value"
    made = api.request("POST", "/secrets", {"name": "one", "value": value, "category": "llm"})
    changed = api.request("PUT", "/secrets/one", {"value": value * 2})
    renamed = api.request("PATCH", "/secrets/one", {"category": None})
    assert [made.json()["version"], changed.json()["version"], renamed.json()["version"]] == [1, 2, 2]
    assert (changed.json()["category"], renamed.json()["category"]) == ("llm", None)
    shown = [made, changed, renamed, api.request("GET", "/secrets"), api.request("GET", "/admin/audit")]
    assert all(value not in answer.text for answer in shown)
    assert value not in cluster.broker.output
    for path in cluster.broker.data_dir.rglob("*"):
        assert path.is_dir() or value.encode() not in path.read_bytes()


def test_a_secrets_value_is_masked(api: Api) -> None:
    """Wherever a secret is shown, the same mask stands for its value."""
    made = api.call("POST", "/secrets", {"name": "one", "value": "hunter2"})
    changed = api.call("PATCH", "/secrets/one", {"category": "llm"})
    shown = [made, changed, api.call("GET", "/secrets/one"), *api.call("GET", "/secrets")["data"]]
    assert {secret["value"] for secret in shown} == {"********"}


def test_revealing_needs_a_setting(api: Api) -> None:
    """Without it a value is refused with what would be needed, and the audit log has the attempt."""
    made = api.call("POST", "/secrets", {"name": "one", "value": "hunter2"})
    answer = api.request("GET", "/secrets/one?reveal=true")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert "WARREN_REVEAL_SECRETS" in answer.json()["error"]["hint"]
    assert "hunter2" not in answer.text
    entry = api.call("GET", "/admin/audit?limit=1")["data"][0]
    assert (entry["action"], entry["actor"], entry["object"]) == ("secret.reveal_refused", "admin", made["id"])
    assert api.request("GET", "/secrets/none?reveal=true").status_code == 404
    assert api.call("GET", "/secrets/one?reveal=false")["value"] == "********"


def test_a_value_is_revealed_where_that_is_allowed(tmp_path: Path) -> None:
    """With the setting an admin reads one value as it went in, which is noted and not to be stored."""
    value = "hünter2\n" * 100
    with Cluster(tmp_path, {**FAST, "WARREN_REVEAL_SECRETS": "true"}) as cluster:
        cluster.broker.start()
        made = cluster.api.call("POST", "/secrets", {"name": "one", "value": "old"})
        cluster.api.call("POST", "/secrets/one/rotate", {"value": value})
        answer = cluster.api.request("GET", f"/secrets/{made['id']}?reveal=true")
        assert (answer.json()["value"], answer.json()["version"]) == (value, 2)
        assert answer.headers["Cache-Control"] == "no-store"
        assert cluster.api.call("GET", "/secrets")["data"][0]["value"] == "********"
        entry = cluster.api.call("GET", "/admin/audit?limit=1")["data"][0]
        assert (entry["action"], entry["data"]) == ("secret.reveal", {"name": "one", "version": 2})
        made = cluster.api.call("POST", "/security/api-keys", {"name": "an-operator", "role": "operator"})
        with Api(cluster.broker.url, made["key"]) as operator:
            assert operator.request("GET", "/secrets/one?reveal=true").status_code == 403


def test_a_secret_is_rotated(api: Api) -> None:
    """A new value is a new version; nothing else changes, and nothing else is taken."""
    made = api.call("POST", "/secrets", {"name": "one", "value": "x", "expires_at": "2030-01-01T00:00:00Z"})
    rotated = api.call("POST", "/secrets/one/rotate", {"value": "y"})
    assert rotated == {**made, "version": 2, "updated_at": rotated["updated_at"]}
    wrong: list[Any] = [{}, {"value": ""}, {"value": None}, {"value": "z", "name": "two"}, {"value": "x" * 65_537}, []]
    for form in wrong:
        assert api.request("POST", "/secrets/one/rotate", form).status_code == 422
    assert api.request("POST", "/secrets/none/rotate", {"value": "y"}).status_code == 404
    assert api.call("GET", "/secrets/one")["version"] == 2


def test_expiring_secrets_come_soonest_first(api: Api) -> None:
    """Those that expire within the days asked for, and those that have expired, page by page; no others."""
    now = datetime.now(UTC)
    for name, days in (("next-week", 7), ("gone", -400), ("today", 0.5), ("next-year", 365), ("month", 29)):
        expires_at = (now + timedelta(days=days)).isoformat()
        api.call("POST", "/secrets", {"name": name, "value": "x", "expires_at": expires_at})
    api.call("POST", "/secrets", {"name": "twin", "value": "x", "expires_at": (now + timedelta(days=7)).isoformat()})
    api.call("POST", "/secrets", {"name": "never", "value": "x"})

    def names(query: str) -> list[str]:
        return [secret["name"] for secret in api.call("GET", f"/secrets/expiring{query}")["data"]]

    month = ["gone", "today", "next-week", "twin", "month"]
    assert names("") == names("?days=30") == month
    assert names("?days=0") == ["gone"]
    assert names("?days=3650") == [*month, "next-year"]
    assert names("?limit=2&offset=2") == month[2:4]
    paged, cursor = [], ""
    while cursor is not None:
        page = api.call("GET", f"/secrets/expiring?limit=2{cursor and f'&cursor={cursor}'}")
        paged += [secret["name"] for secret in page["data"]]
        cursor = page["next_cursor"]
    assert paged == month
    for wrong in ("-1", "3651", "x", "99999999999999999999"):
        assert api.request("GET", f"/secrets/expiring?days={wrong}").status_code == 422


def test_no_secret_is_called_like_a_path(api: Api) -> None:
    """A secret that could not be found by its name is refused, as a new one and as a change."""
    api.call("POST", "/secrets", {"name": "one", "value": "x"})
    for answer in (
        api.request("POST", "/secrets", {"name": "expiring", "value": "x"}),
        api.request("PATCH", "/secrets/one", {"name": "expiring"}),
    ):
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "name")


@pytest.mark.parametrize(("size", "status"), [(0, 422), (1, 201), (65_536, 201), (65_537, 422)])
def test_a_secret_holds_up_to_64_kib(api: Api, size: int, status: int) -> None:
    """Values from 1 byte to 64 KiB are taken, others refused."""
    assert api.request("POST", "/secrets", {"name": "one", "value": "x" * size}).status_code == status


@pytest.mark.parametrize(
    ("expires_at", "shown"),
    [
        ("2030-01-01T02:00:00+02:00", "2030-01-01T00:00:00.000Z"),
        (None, None),
    ],
)
def test_a_secrets_expiry_is_kept_in_utc(api: Api, expires_at: str | None, shown: str | None) -> None:
    """A time with any offset comes back in UTC."""
    form = {"name": "one", "value": "x", "expires_at": expires_at}
    assert api.call("POST", "/secrets", form)["expires_at"] == shown


@pytest.mark.parametrize("expires_at", ["2030-01-01T00:00:00", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00Z"])
def test_an_impossible_expiry_is_refused(api: Api, expires_at: str) -> None:
    """A time without a zone, or one that no calendar of ours can show, is refused."""
    form = {"name": "one", "value": "x", "expires_at": expires_at}
    assert api.request("POST", "/secrets", form).status_code == 422


@pytest.mark.parametrize("path", ["/providers", "/ssh-connections"])
def test_a_used_secret_stays(api: Api, path: str) -> None:
    """A secret is named by id or name, shown by name, and cannot be deleted before its users let go of it."""
    secret = api.call("POST", "/secrets", {"name": "key", "value": "x"})
    made = api.call("POST", path, {"name": "one", **FORMS[path], "secret": secret["id"]})
    assert made["secret"] == "key"
    assert api.request("DELETE", "/secrets/key").status_code == 409
    assert api.call("PATCH", f"{path}/one", {"secret": None})["secret"] is None
    assert api.request("DELETE", "/secrets/key").status_code == 204
    answer = api.request("PATCH", f"{path}/one", {"secret": "key"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (404, "secret")


@pytest.mark.parametrize(
    ("path", "task"),
    [
        ("/providers", {"action": "llm.chat", "provider": "one"}),
        ("/ssh-connections", {"action": "ssh.exec", "connection": "one"}),
    ],
)
def test_what_unfinished_tasks_use_stays(api: Api, path: str, task: dict[str, Any]) -> None:
    """It cannot be deleted while a task waits for it, and can be once the task has finished."""
    api.call("POST", path, {"name": "one", **FORMS[path]})
    task_id = api.call("POST", "/tasks", {**task, "delay_s": 3600})["id"]
    answer = api.request("DELETE", f"{path}/one")
    assert answer.status_code == 409
    assert task_id in answer.json()["error"]["message"]
    api.cancel(task_id)
    assert api.request("DELETE", f"{path}/one").status_code == 204


def test_a_providers_name_stays_while_tasks_stand_in_its_lane(api: Api) -> None:
    """A provider is not renamed under its waiting tasks, whose lanes are called after it."""
    api.call("POST", "/providers", {"name": "one", **FORMS["/providers"]})
    task_id = api.call("POST", "/tasks", {"action": "llm.chat", "provider": "one", "delay_s": 3600})["id"]
    assert api.request("PATCH", "/providers/one", {"name": "two"}).status_code == 409
    assert api.call("PATCH", "/providers/one", {"name": "one", "models": ["m"]})["models"] == ["m"]
    api.cancel(task_id)
    assert api.call("PATCH", "/providers/one", {"name": "two"})["name"] == "two"


def test_every_change_is_in_the_audit_log(api: Api) -> None:
    """Creating, changing and deleting are noted with who did it, newest first."""
    made = api.call("POST", "/providers", {"name": "one", **FORMS["/providers"]})
    api.call("PATCH", "/providers/one", {"models": []})
    api.request("DELETE", "/providers/one")
    entries = api.call("GET", "/admin/audit?limit=3")["data"]
    assert [entry["action"] for entry in entries] == ["provider.delete", "provider.change", "provider.create"]
    assert {(entry["actor"], entry["object"]) for entry in entries} == {("admin", made["id"])}
