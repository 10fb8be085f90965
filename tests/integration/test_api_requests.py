"""The HTTP surface as a whole: keys, limits, errors, hostile bodies."""

import http.client
import json
import re
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST

HOSTILE = {
    "NaN": b"NaN",
    "infinity": b"-Infinity",
    "beyond a double": b"1e999",
    "beyond 64 bits": b"9223372036854775808",
    "ten thousand digits": b"1" * 10_000,
    "half a surrogate pair": b'"\\ud800"',
    "NUL": b'"a\\u0000b"',
    "invalid UTF-8": b'"\xff"',
    "nested without end": b"[" * 100_000,
    "nested too deep": b"[" * 25 + b"]" * 25,
    "too many items": b"[" + b"0," * 16_384 + b"0]",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane without workers."""
    with Cluster(tmp_path_factory.mktemp("api"), FAST) as cluster:
        cluster.broker.start()
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Api:
    """An administrator."""
    return cluster.api


def raw(cluster: Cluster, method: str, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    """Send these very bytes with the administrator's key and return status and body of the answer."""
    connection = http.client.HTTPConnection(urlsplit(cluster.broker.url).netloc, timeout=30)
    sent = {"X-API-Key": cluster.broker.key("admin"), "Content-Type": "application/json"}
    connection.request(method, path, body, {**sent, **{name.replace("_", "-"): text for name, text in headers.items()}})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    return answer.status, content


def code_of(answer: httpx2.Response) -> str:
    """Return the error code of a refusal."""
    return str(answer.json()["error"]["code"])


def test_without_a_key_nobody_comes_in(cluster: Cluster) -> None:
    """No key and a wrong key are answered 401 with a challenge, in the error form, for reads and writes alike."""
    for key in (None, "wrn_" + "a" * 43):
        with Api(cluster.broker.url, key) as stranger:
            for method, path, body in (("GET", "/tasks", None), ("POST", "/tasks", {"action": "x"})):
                answer = stranger.request(method, path, body)
                assert (answer.status_code, code_of(answer)) == (401, "unauthenticated")
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_stranger_learns_nothing_from_a_bad_body(cluster: Cluster) -> None:
    """Without a key, a body is refused before anybody looks into it."""
    assert httpx2.post(f"{cluster.broker.url}/api/v1/tasks", content=b"{").status_code == 401


@pytest.mark.parametrize(
    ("role", "allowed", "refused"),
    [
        ("viewer", [("GET", "/tasks"), ("GET", "/providers"), ("GET", "/workers")], [("GET", "/secrets")]),
        ("viewer", [], [("POST", "/tasks"), ("POST", "/tasks/bulk"), ("GET", "/dead-letter"), ("GET", "/admin/audit")]),
        ("operator", [("GET", "/tasks")], [("POST", "/secrets"), ("POST", "/providers"), ("GET", "/admin/workers")]),
        ("operator", [], [("PATCH", "/admin/workers/x/approve"), ("POST", "/security/api-keys")]),
        ("worker", [], [("GET", "/tasks"), ("GET", "/workers"), ("POST", "/tasks"), ("GET", "/secrets")]),
        ("admin", [("GET", "/secrets"), ("GET", "/dead-letter"), ("GET", "/tasks")], [("POST", "/workers/register")]),
    ],
)
def test_each_role_may_do_its_own(
    api: Api, cluster: Cluster, role: str, allowed: list[tuple[str, str]], refused: list[tuple[str, str]]
) -> None:
    """What a role may not do is answered 403 `forbidden`, before the body is judged; the rest works."""
    made = api.call("POST", "/security/api-keys", {"name": f"{role}-test", "role": role})
    try:
        with Api(cluster.broker.url, made["key"]) as other:
            assert all(other.request(method, path).is_success for method, path in allowed)
            for method, path in refused:
                answer = other.request(method, path, None if method == "GET" else {"unknown": 1})
                assert (method, path, answer.status_code, code_of(answer)) == (method, path, 403, "forbidden")
    finally:
        assert api.request("DELETE", f"/security/api-keys/{made['id']}").status_code == 204


def test_a_revoked_key_is_refused_at_once(api: Api, cluster: Cluster) -> None:
    """The first request after a key's revocation is answered 401."""
    made = api.call("POST", "/security/api-keys", {"name": "short-lived", "role": "viewer"})
    with Api(cluster.broker.url, made["key"]) as other:
        assert other.request("GET", "/tasks").is_success
        api.request("DELETE", f"/security/api-keys/{made['id']}")
        assert other.request("GET", "/tasks").status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer {}", "bearer {}"])
def test_a_key_comes_in_either_header(cluster: Cluster, scheme: str) -> None:
    """Authorization and X-API-Key work alike."""
    key = cluster.broker.key("admin")
    for headers in ({"Authorization": scheme.format(key)}, {"X-API-Key": key}):
        assert httpx2.get(f"{cluster.broker.url}/api/v1/tasks", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/tasks/task_unknown", 404, "not_found"),
        ("GET", "/tasks/%00%ff", 404, "not_found"),
        ("GET", "/tasks/task_unknown/output", 404, "not_found"),
        ("GET", "/tasks/task_unknown/events", 404, "not_found"),
        ("DELETE", "/tasks", 405, "method_not_allowed"),
        ("GET", "/tasks?limit=501", 422, "invalid_input"),
        ("GET", "/tasks?limit=NaN", 422, "invalid_input"),
        ("GET", "/tasks?offset=99999999999999999999", 422, "invalid_input"),
        ("GET", "/tasks?cursor=%00", 422, "invalid_input"),
        ("GET", "/tasks?state=unheard-of", 422, "invalid_input"),
        ("GET", "/events?after=99999999999999999999", 422, "invalid_input"),
        ("GET", "/admin/audit?cursor=task_1", 422, "invalid_input"),
    ],
)
def test_refusals_have_one_form(api: Api, method: str, path: str, status: int, code: str) -> None:
    """Every refusal is JSON with code, message and the request id that its header carries."""
    answer = api.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert set(error) == {"code", "type", "message", "field", "hint", "request_id"}
    assert error["request_id"] == answer.headers["X-Request-ID"]
    assert answer.json()["detail"] == error["message"]


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("form", [b"%b", b'{"action": %b}', b'{"action": "f", "input": {"deep": %b}}', b"{%b: 1}"])
def test_hostile_json_is_a_clear_refusal(cluster: Cluster, hostile: bytes, form: bytes) -> None:
    """JSON that some later reader could not carry is answered 422, never 500, wherever it stands."""
    status, body = raw(cluster, "POST", "/api/v1/tasks", form % hostile)
    assert status == 422
    assert "Traceback" not in json.dumps(body)


def test_a_body_that_is_not_json_is_told_so(cluster: Cluster) -> None:
    """A form-encoded body gets the hint which header is missing."""
    status, body = raw(cluster, "POST", "/api/v1/tasks", b"action=x", Content_Type="application/x-www-form-urlencoded")
    assert status == 422
    assert "Content-Type" in json.dumps(body)


@pytest.mark.parametrize(("path", "limit"), [("/tasks", 2 * 1024 * 1024), ("/tasks/bulk", 16 * 1024 * 1024)])
def test_a_body_beyond_its_limit_is_refused(cluster: Cluster, path: str, limit: int) -> None:
    """One byte more than the limit is answered 413; the limit itself is read and judged."""
    filler = b'{"x": "' + b"a" * (limit - 9) + b'"}'
    assert raw(cluster, "POST", f"/api/v1{path}", filler)[0] == 422
    status, body = raw(cluster, "POST", f"/api/v1{path}", filler + b" ")
    assert (status, body["error"]["code"]) == (413, "too_large")


def test_a_chunked_body_is_counted(cluster: Cluster) -> None:
    """A body that does not announce its length is refused as soon as it passes the limit."""
    headers = {"X-API-Key": cluster.broker.key("admin"), "Content-Type": "application/json"}
    chunks = (b"a" * 65_536 for _ in range(40))
    answer = httpx2.post(f"{cluster.broker.url}/api/v1/tasks", content=chunks, headers=headers)
    assert answer.status_code == 413


def test_no_answer_repeats_a_secret(api: Api) -> None:
    """Refusals of a form with a secret never quote its value, whatever field was wrong."""
    value = "hunter2-" * 3
    for form in (
        {"name": "Bad Name", "value": value},
        {"name": "ok", "value": [value]},
        {"name": "ok", "value": value, "category": {value: value}},
        {"name": "ok", "value": value, "expires_at": value},
        {"name": "ok", "value": value * 10_000},
        {"value": value},
        [value],
    ):
        answer = api.request("POST", "/secrets", form)
        assert answer.status_code == 422
        assert value not in answer.text


def test_a_trailing_slash_means_nothing(api: Api) -> None:
    """The same answer comes with and without a slash at the end, and no redirect."""
    for path in ("/tasks", "/providers", "/workers"):
        assert api.request("GET", path).json() == api.request("GET", f"{path}/").json()


def test_answers_protect_browsers(api: Api) -> None:
    """Answers are not sniffed, framed, stored, or able to load anything."""
    headers = api.request("GET", "/tasks").headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"


def test_the_reference_needs_a_key_and_names_every_operation(cluster: Cluster) -> None:
    """/docs and /openapi.json are for viewers, and each operation has a unique name."""
    for path in ("/docs", "/openapi.json"):
        assert httpx2.get(cluster.broker.url + path).status_code == 401
    headers = {"X-API-Key": cluster.broker.key("admin")}
    document = httpx2.get(f"{cluster.broker.url}/openapi.json", headers=headers).json()
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names)) > 40
    page = httpx2.get(f"{cluster.broker.url}/docs", headers=headers).text
    assert all(path in page for path in document["paths"])
    assert "<script" not in page


def test_a_workers_session_needs_a_workers_key(cluster: Cluster) -> None:
    """The WebSocket is refused with status 403 for nobody and for an administrator."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    for key in ("", cluster.broker.key("admin")):
        headers = {**upgrade, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "X-API-Key": key}
        answer = httpx2.get(f"{cluster.broker.url}/api/v1/workers/session", headers=headers)
        assert answer.status_code == 403


ODD = {
    "no such method": "FROB /api/v1/tasks HTTP/1.1\r\n",
    "lower case": "get /api/v1/tasks HTTP/1.1\r\n",
    "NUL in the path": "GET /api/v1/tasks/%00 HTTP/1.1\r\n",
    "invalid UTF-8 in the path": "GET /api/v1/tasks/%ff%fe HTTP/1.1\r\n",
    "bare percent": "GET /api/v1/tasks/% HTTP/1.1\r\n",
    "dots": "GET /api/v1/../../etc/passwd HTTP/1.1\r\n",
    "slashes": "GET //api//v1//tasks// HTTP/1.1\r\n",
    "whole URL": "GET http://elsewhere.example/api/v1/tasks HTTP/1.1\r\n",
    "star": "OPTIONS * HTTP/1.1\r\n",
    "long path": f"GET /api/v1/tasks/{'x' * 30_000} HTTP/1.1\r\n",
    "NUL in the query": "GET /api/v1/tasks?action=%00&priority=%00 HTTP/1.1\r\n",
    "half a surrogate pair": "GET /api/v1/tasks?action=%ed%a0%80 HTTP/1.1\r\n",
    "odd keys": "GET /api/v1/tasks?&&=&=x&%=%&[]=1&limit=1&limit=2 HTTP/1.1\r\n",
    "huge numbers": f"GET /api/v1/tasks?limit={'9' * 5000} HTTP/1.1\r\n",
    "a number in other digits": "GET /api/v1/tasks?limit=%D9%A3 HTTP/1.1\r\n",
    "bytes in a header": "GET /api/v1/tasks HTTP/1.1\r\nAccept: \xff\xfe\r\n",
    "bytes for a key": "GET /api/v1/tasks HTTP/1.1\r\nAuthorization: Bearer \xff\xfe\r\n",
    "two keys": "GET /api/v1/tasks HTTP/1.1\r\nX-API-Key: x\r\nX-API-Key: y\r\n",
    "odd idempotency key": "POST /api/v1/tasks HTTP/1.1\r\nIdempotency-Key: \xfc\r\nContent-Length: 2\r\n",
    "length below zero": "POST /api/v1/tasks HTTP/1.1\r\nContent-Length: -1\r\n",
    "length in words": "POST /api/v1/tasks HTTP/1.1\r\nContent-Length: two\r\n",
    "length and chunks": "POST /api/v1/tasks HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n",
    "unknown coding": "POST /api/v1/tasks HTTP/1.1\r\nTransfer-Encoding: gzip\r\n",
    "body of a GET": "GET /api/v1/tasks HTTP/1.1\r\nContent-Length: 2\r\n",
    "body of a DELETE": "DELETE /api/v1/dead-letter/x HTTP/1.1\r\nContent-Length: 2\r\n",
    "no content type": "POST /api/v1/tasks HTTP/1.1\r\nContent-Length: 2\r\n",
    "UTF-16": "POST /api/v1/tasks HTTP/1.1\r\nContent-Type: application/json; charset=utf-16\r\nContent-Length: 2\r\n",
    "broken content type": 'POST /api/v1/tasks HTTP/1.1\r\nContent-Type: ;;="\r\nContent-Length: 2\r\n',
    "form": "POST /api/v1/tasks HTTP/1.1\r\nContent-Type: multipart/form-data\r\nContent-Length: 2\r\n",
    "packed": "POST /api/v1/tasks HTTP/1.1\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
    "Content-Length: 2\r\n",
}


@pytest.mark.parametrize("request_head", ODD.values(), ids=ODD)
def test_no_request_makes_the_server_fail(cluster: Cluster, request_head: str) -> None:
    """Whatever arrives, with a valid key too, is answered with a status below 500, or not understood as HTTP at all."""
    address = urlsplit(cluster.broker.url)
    for key in (f"X-API-Key: {cluster.broker.key('admin')}\r\n", ""):
        head = f"{request_head}Host: here\r\nConnection: close\r\n{key}\r\n{{}}"
        with socket.create_connection((str(address.hostname), address.port or 0), timeout=10) as connection:
            connection.sendall(head.encode("latin-1"))
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert re.match(rb"HTTP/1\.1 [24]\d\d ", answer), answer[:200]
    assert "request_crashed" not in cluster.broker.output
