"""What holds for the whole API: bases, slashes, spellings, keys, pages, limits, browsers."""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from broker.preferences import PreferenceStore
from broker.store.store import Store
from protocols.clock import SystemClock
from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST, wait_until

ORIGIN = "https://dashboard.example"
BASES = ("/api/v1", "/v1", "/api/v1/tenants/default", "/v1/tenants/default")
REFERENCE = ("/docs", "/redoc", "/openapi.json")
UNKNOWN_KEY = "wrn_" + "a" * 43

Started = Callable[..., AbstractContextManager[Cluster]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane without workers, which a web page of another origin may call."""
    settings = {**FAST, "WARREN_CORS_ORIGINS": f"{ORIGIN}, http://localhost:5173"}
    with Cluster(tmp_path_factory.mktemp("conventions"), settings) as cluster:
        cluster.broker.start()
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Api:
    """An administrator."""
    return cluster.api


@pytest.fixture
def started(tmp_path: Path) -> Started:
    """Start a control plane of the test's own, with preferences that an admin has set before."""

    @contextmanager
    def start(preferences: Mapping[str, Any], **settings: str) -> Iterator[Cluster]:
        with Cluster(tmp_path, {**FAST, **settings}) as own:
            own.broker.data_dir.mkdir()
            store = Store(own.broker.data_dir / "warren.db", SystemClock())
            store.start()
            PreferenceStore(store).change(preferences, "admin").result()
            store.stop()
            own.broker.start()
            yield own

    return start


def ask(cluster: Cluster, method: str, path: str, **options: Any) -> httpx2.Response:
    """Send one request to a path from the root, with the administrator's key unless other headers are given."""
    headers = {"X-API-Key": cluster.broker.key("admin"), **options.pop("headers", {})}
    return httpx2.request(method, cluster.broker.url + path, headers=headers, trust_env=False, **options)


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("base", BASES)
def test_every_base_leads_to_the_same(cluster: Cluster, base: str, slash: str) -> None:
    """A task made under one base, with a body, is found under all of them; no redirect, whatever the slash."""
    made = ask(cluster, "POST", f"{base}/tasks{slash}", json={"action": "noop", "delay_s": 3600})
    assert made.status_code == 201
    assert made.headers["Location"] == f"/api/v1/tasks/{made.json()['id']}"
    for other in BASES:
        found = ask(cluster, "GET", f"{other}/tasks/{made.json()['id']}{slash}")
        assert (found.status_code, found.json()["id"]) == (200, made.json()["id"])
    cancelled = ask(cluster, "POST", f"{base}/tasks/{made.json()['id']}/cancel{slash}", json={"reason": "done"})
    assert cancelled.json()["state"] == "cancelled"


@pytest.mark.parametrize("base", BASES)
def test_every_base_has_the_same_limits(cluster: Cluster, base: str) -> None:
    """A bulk form may be as large under every base, with a slash at its end too."""
    form = {"tasks": [{"action": "noop", "description": "d" * 9_000, "delay_s": 3600}] * 300}
    for slash in ("", "/"):
        assert ask(cluster, "POST", f"{base}/tasks/bulk{slash}", json=form, timeout=60).status_code == 201
    assert ask(cluster, "POST", f"{base}/tasks", json=form).status_code == 413


@pytest.mark.parametrize("tenant", ["other", "Default", "", "default%2F..", "%00"])
def test_there_is_one_tenant(cluster: Cluster, tenant: str) -> None:
    """Under any other tenant there is nothing."""
    answer = ask(cluster, "GET", f"/api/v1/tenants/{tenant}/tasks")
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found")


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_websocket_is_found_under_every_base(cluster: Cluster, base: str, slash: str) -> None:
    """The handshake of a worker's session succeeds at each of its addresses."""
    connection = http.client.HTTPConnection(urlsplit(cluster.broker.url).netloc, timeout=10)
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "X-API-Key": cluster.broker.key("worker"),
    }
    connection.request("GET", f"{base}/workers/session{slash}", headers=headers)
    assert connection.getresponse().status == 101
    connection.close()


@pytest.mark.parametrize("path", ["/api/v1/security/api-keys", "/api/v1/auth/api-keys", "/v1/api_keys"])
def test_keys_have_three_addresses(cluster: Cluster, path: str) -> None:
    """A key can be made, listed and revoked at each of them."""
    made = ask(cluster, "POST", path, json={"name": path, "role": "viewer"})
    assert made.status_code == 201
    assert made.json()["id"] in {key["id"] for key in ask(cluster, "GET", path).json()["data"]}
    assert ask(cluster, "DELETE", f"{path}/{made.json()['id']}").status_code == 204


def test_a_key_comes_in_one_of_three_headers(cluster: Cluster) -> None:
    """Bearer wins over X-API-Key, which wins over X-MAO-API-Key; another scheme of Authorization is not looked at."""
    key = cluster.broker.key("admin")
    url = f"{cluster.broker.url}/api/v1/tasks"
    for status, headers in (
        (200, {"X-MAO-API-Key": key}),
        (200, {"X-API-Key": key, "X-MAO-API-Key": "wrong"}),
        (200, {"Authorization": f"Bearer {key}", "X-API-Key": "wrong"}),
        (200, {"Authorization": "Basic d3JvbmcK", "X-API-Key": key}),
        (401, {"X-API-Key": "wrong", "X-MAO-API-Key": key}),
        (401, {"Authorization": "Bearer wrong", "X-API-Key": key}),
        (401, {"Authorization": "Bearer", "X-API-Key": key}),
        (401, {"Authorization": f"Basic {key}"}),
    ):
        assert httpx2.get(url, headers=headers, trust_env=False).status_code == status, headers.keys()


@pytest.mark.parametrize("path", ["/auth/whoami", "/auth/me"])
def test_every_key_learns_what_it_is(api: Api, cluster: Cluster, path: str) -> None:
    """Id, name and role of the key itself, for each role; nothing for strangers."""
    made = api.call("POST", "/security/api-keys", {"name": f"who{path}", "role": "viewer"})
    with Api(cluster.broker.url, made["key"]) as viewer:
        assert viewer.call("GET", path) == {"id": made["id"], "name": f"who{path}", "role": "viewer"}
    for role in ("admin", "worker"):
        with Api(cluster.broker.url, cluster.broker.key(role)) as holder:
            assert holder.call("GET", path).items() >= {"name": role, "role": role}.items()
    with Api(cluster.broker.url, None) as stranger:
        assert stranger.request("GET", path).status_code == 401


def test_a_state_has_three_spellings(api: Api) -> None:
    """`state`, `status` and `status_filter` give the same list; different ones are refused, also with an unknown."""
    api.submit("noop", delay_s=3600)
    by_state = api.call("GET", "/tasks?state=scheduled")
    assert by_state["total"] > 0
    for query in ("status=scheduled", "status_filter=scheduled", "state=scheduled&status=scheduled"):
        assert api.call("GET", f"/tasks?{query}")["total"] == by_state["total"]
    for query in ("state=scheduled&status=dead", "status=dead&status_filter=queued", "status_filter=unknown"):
        assert api.request("GET", f"/tasks?{query}").status_code == 422


def test_pages_are_another_spelling_of_offsets(api: Api) -> None:
    """page and page_size show the same rows as limit and offset; a cursor goes on from any of them."""
    api.submit_all([{"action": "paged", "title": str(number), "delay_s": 3600} for number in range(7)])
    path = "/tasks?action=paged"
    whole = [task["id"] for task in api.call("GET", path)["data"]]
    second = api.call("GET", f"{path}&page=2&page_size=3")
    assert [task["id"] for task in second["data"]] == whole[3:6]
    assert second == api.call("GET", f"{path}&limit=3&offset=3")
    assert (second["limit"], second["offset"], second["total"], second["has_more"]) == (3, 3, 7, True)
    last = api.call("GET", f"{path}&limit=3&cursor={second['next_cursor']}")
    assert [task["id"] for task in last["data"]] == whole[6:]
    assert api.call("GET", f"{path}&page=3&limit=3&page_size=3")["data"] == last["data"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=3&page_size=4",
        "page=1&offset=3",
        "page=1&cursor=task_1",
        "offset=1&cursor=task_1",
        "page=0",
        "page_size=501",
        "page=10000000&page_size=500",
        "page=99999999999999999999",
    ],
)
def test_pages_that_contradict_themselves_are_refused(api: Api, query: str) -> None:
    """What cannot be meant is answered 422, and the message names a field."""
    answer = api.request("GET", f"/tasks?{query}")
    assert (answer.status_code, answer.json()["error"]["type"]) == (422, "invalid_request")
    assert answer.json()["error"]["field"]


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/tasks/task_none", 404, "not_found"),
        ("POST", "/tasks", 422, "invalid_request"),
        ("DELETE", "/tasks", 405, "invalid_request"),
        ("DELETE", "/security/api-keys/{admin}", 409, "conflict"),
        ("POST", "/workers/register", 403, "forbidden"),
    ],
)
def test_errors_have_a_type(api: Api, method: str, path: str, status: int, kind: str) -> None:
    """The type of an error is one of a few words that clients of other systems know."""
    admin = next(key["id"] for key in api.call("GET", "/security/api-keys")["data"] if key["name"] == "admin")
    answer = api.request(method, path.format(admin=admin), {} if method == "POST" else None)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, kind)
    assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize("path", ["/health", "/api/v1/health", "/v1/health"])
def test_health_has_what_others_look_for(cluster: Cluster, path: str) -> None:
    """The keys of every contract, without a key."""
    health = httpx2.get(cluster.broker.url + path, trust_env=False).json()
    assert health.items() >= {"status": "healthy", "service": "warren", "database": "ok"}.items()
    assert health["redis"] == "not_configured"


@pytest.mark.parametrize("base", ["", "/api/v1"])
def test_metrics_are_there_as_json(cluster: Cluster, base: str) -> None:
    """The same numbers as in the text, for those who may read the text."""
    url = f"{cluster.broker.url}{base}/metrics/json"
    found = {metric["name"]: metric for metric in httpx2.get(url, trust_env=False).json()["metrics"]}
    text = httpx2.get(f"{cluster.broker.url}/metrics", trust_env=False).text
    for name, metric in found.items():
        assert f"# HELP {name} {metric['help']}\n# TYPE {name} {metric['type']}" in text
    by_state = {sample["labels"]["state"]: sample["value"] for sample in found["warren_tasks"]["samples"]}
    assert f'warren_tasks{{state="scheduled"}} {by_state["scheduled"]}' in text
    forwarded = {"X-Forwarded-For": "203.0.113.9"}
    assert httpx2.get(url, headers=forwarded, trust_env=False).status_code == 401


def test_the_invariant_can_be_asked_for(api: Api, cluster: Cluster) -> None:
    """A quiet control plane has no violation; the answer tells when it looked; a viewer may not ask."""
    api.submit("noop")
    wait_until("the invariant holds", lambda: api.call("GET", "/admin/invariant")["ok"])
    found = api.call("GET", "/admin/invariant")
    assert (found["violations"], found["total"]) == ([], 0)
    assert found["checked_at"].endswith("Z")
    made = api.call("POST", "/security/api-keys", {"name": "curious", "role": "operator"})
    with Api(cluster.broker.url, made["key"]) as operator:
        assert operator.request("GET", "/admin/invariant").status_code == 403


def test_streams_go_on_after_an_event(api: Api, cluster: Cluster) -> None:
    """`?after=` and Last-Event-ID leave out what was seen, on the journal and on a task's events; the header wins."""
    task = api.submit("streamed", delay_s=3600)
    api.cancel(task)
    events = api.call("GET", f"/tasks/{task}/events")["data"]
    first, last = events[0]["id"], events[-1]["id"]
    assert first < last
    for query, headers in (
        (f"?after={first}", {}),
        ("", {"Last-Event-ID": str(first)}),
        ("?after=0", {"Last-Event-ID": str(first)}),
    ):
        sent = {"Accept": "text/event-stream", **headers}
        stream = ask(cluster, "GET", f"/api/v1/tasks/{task}/events{query}", headers=sent).text
        assert f"id: {first}\n" not in stream
        assert f"id: {last}\n" in stream
    url = f"{cluster.broker.url}/api/v1/events?after={last - 1}"
    with httpx2.stream("GET", url, headers={"X-API-Key": cluster.broker.key("admin")}, trust_env=False) as journal:
        ids = (line for line in journal.iter_lines() if line.startswith("id: "))
        assert next(ids) == f"id: {last}"


def test_the_reference_needs_a_key(cluster: Cluster) -> None:
    """/docs, /redoc and /openapi.json are for those with a viewer's key."""
    for path in REFERENCE:
        assert httpx2.get(cluster.broker.url + path, trust_env=False).status_code == 401
        assert ask(cluster, "GET", path).status_code == 200


def test_the_reference_can_be_opened(started: Started) -> None:
    """With the preference `api.public_docs` everybody may read it, and nothing else."""
    with started({"api.public_docs": True}) as own:
        for path in REFERENCE:
            assert httpx2.get(own.broker.url + path, trust_env=False).status_code == 200
        assert httpx2.get(f"{own.broker.url}/api/v1/tasks", trust_env=False).status_code == 401


def test_an_address_may_ask_so_often(started: Started) -> None:
    """Each answer tells what is left; then comes 429 with when to try again. Probes and OPTIONS are never refused."""
    with started({"api.rate_limit_per_minute": 20}) as own:
        answers = [ask(own, "GET", "/api/v1/tasks")]
        while answers[-1].status_code == 200 and len(answers) < 100:
            answers.append(ask(own, "GET", "/api/v1/tasks"))
        refused = answers[-1]
        # The window slides: while a test takes its time, a few more are allowed.
        assert 20 < len(answers) < 30
        left = [int(answer.headers["X-RateLimit-Remaining"]) for answer in answers]
        assert (left[0], left[-1]) == (19, 0)
        assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"20"}
        assert (refused.json()["error"]["code"], refused.json()["error"]["type"]) == ("rate_limited", "rate_limited")
        assert 1 <= int(refused.headers["Retry-After"]) <= 61
        assert abs(int(refused.headers["X-RateLimit-Reset"]) - time.time()) <= 61
        assert refused.headers["X-Request-ID"] == refused.json()["error"]["request_id"]
        # Unknown paths, writes and strangers count too.
        assert ask(own, "GET", "/nothing").status_code == 429
        assert ask(own, "POST", "/api/v1/tasks", json={"action": "x"}).status_code == 429
        assert httpx2.get(f"{own.broker.url}/v1/tasks", trust_env=False).status_code == 429
        for base in ("", "/api/v1", "/v1"):
            for probe in ("health", "healthz", "livez", "readyz", "health/"):
                answer = ask(own, "GET", f"{base}/{probe}")
                assert answer.status_code == 200
                assert "X-RateLimit-Limit" not in answer.headers
        assert ask(own, "GET", "/").status_code == 404
        assert ask(own, "OPTIONS", "/api/v1/tasks").status_code == 405


def test_without_a_limit_nobody_counts(cluster: Cluster) -> None:
    """By default no answer speaks of a limit."""
    assert not any(name.lower().startswith("x-ratelimit") for name in ask(cluster, "GET", "/api/v1/tasks").headers)


def test_whoever_guesses_keys_has_to_wait(started: Started) -> None:
    """After a few unknown keys, more of them are answered 429; valid ones, and requests without any, as ever."""
    with started({}, WARREN_AUTH_FAILURES_PER_MINUTE="5") as own:
        url = f"{own.broker.url}/api/v1/tasks"
        for _ in range(8):
            assert httpx2.get(url, trust_env=False).status_code == 401
        guesses = [httpx2.get(url, headers={"X-API-Key": UNKNOWN_KEY}, trust_env=False) for _ in range(7)]
        assert [answer.status_code for answer in guesses] == [401] * 5 + [429] * 2
        assert 1 <= int(guesses[-1].headers["Retry-After"]) <= 61
        with_body = httpx2.post(url, json={"action": "x"}, headers={"X-API-Key": UNKNOWN_KEY}, trust_env=False)
        assert with_body.status_code == 429
        assert ask(own, "GET", "/api/v1/tasks").status_code == 200
        assert ask(own, "POST", "/api/v1/tasks", json={"action": "x"}).status_code == 201
        assert httpx2.get(url, trust_env=False).status_code == 401


def test_web_pages_of_one_origin_may_call(cluster: Cluster) -> None:
    """The origins of the settings get an answer that browsers let through, errors and preflights too; others none."""
    preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "PATCH"}
    preflight["Access-Control-Request-Headers"] = "authorization, content-type, x-mao-api-key, idempotency-key"
    allowed = httpx2.options(f"{cluster.broker.url}/api/v1/tasks", headers=preflight, trust_env=False)
    assert (allowed.status_code, allowed.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
    assert allowed.headers["Access-Control-Max-Age"] == "3600"
    assert allowed.headers["Access-Control-Allow-Credentials"] == "true"
    methods = {method.strip() for method in allowed.headers["Access-Control-Allow-Methods"].split(",")}
    assert methods == {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
    for path, status in (("/api/v1/tasks", 200), ("/api/v1/tasks/none", 404), ("/health", 200)):
        answer = ask(cluster, "GET", path, headers={"Origin": ORIGIN})
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (status, ORIGIN)
        assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
    refused = httpx2.post(f"{cluster.broker.url}/api/v1/tasks", json={}, headers={"Origin": ORIGIN}, trust_env=False)
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, ORIGIN)
    stranger = {**preflight, "Origin": "https://elsewhere.example"}
    answer = httpx2.options(f"{cluster.broker.url}/api/v1/tasks", headers=stranger, trust_env=False)
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_no_web_page_may_call_by_default(started: Started) -> None:
    """Without the setting no answer speaks to browsers of other origins."""
    with started({}) as own:
        answer = ask(own, "GET", "/api/v1/tasks", headers={"Origin": ORIGIN})
        assert not any(name.lower().startswith("access-control") for name in answer.headers)


def test_words_of_paths_are_no_names(api: Api) -> None:
    """What is called like a path's fixed word could not be reached by its name."""
    answer = api.request("POST", "/secrets", {"name": "expiring", "value": "x"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "name")
    assert "reserved" in json.dumps(answer.json())


@pytest.mark.parametrize(
    ("path", "form", "code", "field"),
    [
        ("/tasks", {"action": "resize", "pool": "No Pool"}, "invalid_name", "pool"),
        ("/tasks", {"action": "resize", "then": [{"action": "crop", "pool": "ssh"}]}, "invalid_name", "then.0.pool"),
        ("/tasks/bulk", {"tasks": [{"action": "a"}, {"action": "b", "pool": "B"}]}, "invalid_name", "tasks.1.pool"),
        ("/agents", {"name": "tools"}, "invalid_name", "name"),
        ("/agents", {"name": "a", "pool": "No Pool"}, "invalid_name", "pool"),
        ("/ssh-connections/none/test", {"pool": "No Pool"}, "invalid_name", "pool"),
        ("/tasks", {"action": "resize", "deadline": "2030-01-31T12:00:00"}, "invalid_input", "deadline"),
    ],
)
def test_a_refusal_says_where_in_the_form(api: Api, path: str, form: dict[str, Any], code: str, field: str) -> None:
    """Names and times are refused where they stand, however deep that is."""
    problem = api.request("POST", path, form).json()["error"]
    assert (problem["code"], problem["field"]) == (code, field)


@pytest.mark.parametrize("number", ["0.5", "0", "-1", "1900000000", "1900000000000"])
def test_a_number_is_no_time(api: Api, number: str) -> None:
    """Nobody means half a second after 1970: neither in a filter, nor in a form, as a number or as a text."""
    for path in ("/tasks?created_after=", "/tasks?created_before=", "/dead-letter?dead_after="):
        assert api.request("GET", path + number).status_code == 422
    assert api.request("POST", f"/dead-letter/retry-all?dead_before={number}").status_code == 422
    for written in (number, json.loads(number)):
        for path, form in (
            ("/tasks", {"action": "resize", "deadline": written}),
            ("/secrets", {"name": "timed", "value": "x", "expires_at": written}),
            ("/dead-letter/retry-all", {"dead_before": written}),
        ):
            assert api.request("POST", path, form).status_code == 422


@pytest.mark.parametrize("value", [True, False, "1", "", None, []])
@pytest.mark.parametrize("field", ["concurrency_limit", "delay_s"])
def test_only_a_number_is_one(api: Api, field: str, value: object) -> None:
    """Neither true nor a text counts as 1; the answer names the field."""
    answer = api.request("POST", "/tasks", {"action": "resize", field: value})
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)


def test_a_whole_number_may_have_a_point(api: Api) -> None:
    """JSON knows one kind of numbers: 3.0 is 3."""
    assert api.call("POST", "/tasks", {"action": "resize", "max_attempts": 3.0})["max_attempts"] == 3
