"""Files over HTTP: uploads that stream, downloads, signed URLs, and what is left after a refusal or a crash."""

import hashlib
import http.client
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from broker.api import multipart
from tests.support.api import BASE, Api
from tests.support.cluster import Cluster
from tests.support.disk import SmallDisk
from tests.support.processes import FAST, wait_until

BOUNDARY = "----boundary"
CONTENT = bytes(range(256)) * 40
LIMIT = 300_000
FILE = f'form-data; name="{multipart.FIELD}"; filename="a"'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane without workers."""
    with Cluster(tmp_path_factory.mktemp("files"), FAST) as cluster:
        cluster.broker.start()
        yield cluster


@pytest.fixture
def api(cluster: Cluster) -> Api:
    """An administrator."""
    return cluster.api


@pytest.fixture
def operator(api: Api, cluster: Cluster) -> Iterator[Api]:
    """An operator."""
    made = api.call("POST", "/security/api-keys", {"name": "an-operator", "role": "operator"})
    with Api(cluster.broker.url, made["key"]) as client:
        yield client
    api.request("DELETE", f"/security/api-keys/{made['id']}")


def send(cluster: Cluster, path: str, *, key: str | None = None, **more: Any) -> httpx2.Response:
    """Post what `httpx2` is told with the administrator's key or another."""
    headers = {"X-API-Key": key or cluster.broker.key("admin"), **more.pop("headers", {})}
    return httpx2.post(f"{cluster.broker.url}{path}", headers=headers, timeout=60, **more)


def upload(cluster: Cluster, content: bytes = CONTENT, name: str = "a.bin", query: str = "") -> dict[str, Any]:
    """Upload a file and return what is known of it."""
    answer = send(cluster, f"{BASE}/files/upload{query}", files={"file": (name, content, "application/x-test")})
    assert answer.status_code == 201, answer.text
    known: dict[str, Any] = answer.json()
    assert answer.headers["Location"] == f"{BASE}/files/{known['id']}"
    return known


def fetch(cluster: Cluster, file_id: str, **headers: str) -> httpx2.Response:
    """Download a file with the administrator's key."""
    sent = {
        "X-API-Key": cluster.broker.key("admin"),
        **{name.replace("_", "-"): text for name, text in headers.items()},
    }
    return httpx2.get(f"{cluster.broker.url}{BASE}/files/{file_id}/download", headers=sent)


def stored(cluster: Cluster) -> set[str]:
    """Return the names of all files in the storage."""
    return {path.name for path in (cluster.broker.data_dir / "files").rglob("*") if path.is_file()}


@contextmanager
def begin_upload(cluster: Cluster, *known: str) -> Iterator[None]:
    """Send a part of a file, and leave when the block ends; `known` are all the files that are there."""
    head = (
        f"POST {BASE}/files/upload HTTP/1.1\r\nHost: x\r\nX-API-Key: {cluster.broker.key('admin')}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: 200000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", cluster.broker.port), 30) as connection:
        connection.sendall(head.encode() + raw_body((FILE, bytes(100_000)), end=""))
        wait_until("the file arrives", lambda: stored(cluster) != set(known))
        yield


def raw_body(*parts: tuple[str, bytes], end: str = f"--{BOUNDARY}--\r\n") -> bytes:
    """Return a multipart body of parts, each with its Content-Disposition."""
    heads = ((f"--{BOUNDARY}\r\nContent-Disposition: {said}\r\n\r\n".encode(), content) for said, content in parts)
    return b"".join(head + content + b"\r\n" for head, content in heads) + end.encode()


def test_a_file_lives_from_upload_to_delete(api: Api, cluster: Cluster) -> None:
    """It is stored once, known by name, type, size and digest, downloaded as it was, listed, and deleted."""
    known = upload(cluster, name="report.bin")
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert {name: known[name] for name in ("name", "content_type", "size_bytes", "sha256", "task_id")} == {
        "name": "report.bin",
        "content_type": "application/x-test",
        "size_bytes": len(CONTENT),
        "sha256": digest,
        "task_id": None,
    }
    assert known["created_by"] == "admin"
    assert api.call("GET", f"/files/{known['id']}") == known == api.call("GET", "/files?limit=1")["data"][0]
    assert known["id"] in stored(cluster)
    answer = fetch(cluster, known["id"])
    assert answer.content == CONTENT
    assert answer.headers["Content-Disposition"] == 'attachment; filename="report.bin"'
    assert answer.headers["Content-Type"] == "application/x-test"
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.headers["ETag"] == f'"{digest}"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert api.request("DELETE", f"/files/{known['id']}").status_code == 204
    assert known["id"] not in stored(cluster)
    for method, path in (("GET", ""), ("GET", "/download"), ("GET", "/url"), ("DELETE", "")):
        assert api.request(method, f"/files/{known['id']}{path}").status_code == 404
    audit = api.call("GET", "/admin/audit?limit=2")["data"]
    assert [entry["action"] for entry in audit] == ["file.delete", "file.create"]
    assert {entry["object"] for entry in audit} == {known["id"]}


def test_an_empty_file_is_one(cluster: Cluster) -> None:
    """A file of no bytes comes and goes like any other, whatever part of it is asked for."""
    known = upload(cluster, b"")
    assert known["size_bytes"] == 0
    for headers in ({}, {"Range": "bytes=0-"}):
        answer = fetch(cluster, known["id"], **headers)
        assert (answer.status_code, answer.content) == (200, b"")


def test_files_belong_to_tasks(api: Api, cluster: Cluster) -> None:
    """A file names its task, which must exist, and the list of a task's files has no other."""
    task_id = api.submit("effect", delay_s=3600)
    first, second = (upload(cluster, query=f"?task_id={task_id}") for _ in range(2))
    upload(cluster)
    listed = api.call("GET", f"/files?task_id={task_id}")
    assert ([row["id"] for row in listed["data"]], listed["total"]) == ([second["id"], first["id"]], 2)
    before = stored(cluster)
    answer = send(cluster, f"{BASE}/files/upload?task_id=task_unknown", files={"file": ("a", b"x")})
    assert answer.status_code == 404
    assert stored(cluster) == before
    api.cancel(task_id)
    assert api.call("GET", f"/files/{first['id']}")["task_id"] == task_id


def test_roles(api: Api, cluster: Cluster, operator: Api) -> None:
    """A viewer reads, an operator also uploads and deletes, a worker's key does neither; a stranger nothing."""
    known = upload(cluster)
    made = api.call("POST", "/security/api-keys", {"name": "a-viewer", "role": "viewer"})
    before = stored(cluster)
    with Api(cluster.broker.url, made["key"]) as viewer, Api(cluster.broker.url, cluster.broker.key("worker")) as node:
        for path in ("", f"/{known['id']}", f"/{known['id']}/download", f"/{known['id']}/url"):
            assert viewer.request("GET", f"/files{path}").is_success
            assert node.request("GET", f"/files{path}").status_code == 403
        assert viewer.request("DELETE", f"/files/{known['id']}").status_code == 403
        answer = send(cluster, f"{BASE}/files/upload", key=made["key"], files={"file": ("a", b"x")})
        assert answer.status_code == 403
    assert send(cluster, f"{BASE}/files/upload", key="wrn_" + "a" * 43, files={"file": ("a", b"x")}).status_code == 401
    assert stored(cluster) == before
    assert operator.request("DELETE", f"/files/{known['id']}").status_code == 204


def test_a_stranger_sends_no_bytes(cluster: Cluster) -> None:
    """Without a key the answer comes before a byte of the body was read."""
    connection = http.client.HTTPConnection(urlsplit(cluster.broker.url).netloc, timeout=30)
    connection.putrequest("POST", f"{BASE}/files/upload")
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


@pytest.mark.parametrize(
    ("name", "kept"),
    [("../../x/evil.sh", "evil.sh"), ('q"uo;te.txt', 'q"uo;te.txt'), ("Übersicht 表.csv", "Übersicht 表.csv")],
)
def test_names_come_back_made_harmless(cluster: Cluster, name: str, kept: str) -> None:
    """A name travels in any script, and never as a path."""
    known = upload(cluster, name=name)
    assert known["name"] == kept.replace('"', "%22")
    disposition = fetch(cluster, known["id"]).headers["Content-Disposition"]
    assert disposition.isascii()
    assert disposition.startswith("attachment; ")
    assert not list(cluster.directory.rglob("evil*"))


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=10000-", 10000, 10240),
        ("bytes=-250", 9990, 10240),
        ("bytes=10239-99999", 10239, 10240),
    ],
)
def test_a_part_can_be_fetched(cluster: Cluster, wanted: str, start: int, stop: int) -> None:
    """One range of bytes is answered with 206 and its place."""
    answer = fetch(cluster, upload(cluster)["id"], Range=wanted)
    assert (answer.status_code, answer.content) == (206, CONTENT[start:stop])
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/10240"
    assert answer.headers["Content-Length"] == str(stop - start)


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=0-99999",
        "bytes=-99999",
        "bytes=200-100",
        "bytes=-",
        "bytes=0-1,5-6",
        "lines=1-2",
        "bytes=" + "9" * 5000 + "-",
    ],
)
def test_what_is_no_range_means_the_whole(cluster: Cluster, wanted: str) -> None:
    """A range that takes in everything, or that is none, gets the file."""
    answer = fetch(cluster, upload(cluster)["id"], Range=wanted)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert "Content-Range" not in answer.headers


@pytest.mark.parametrize("wanted", ["bytes=10240-", "bytes=10240-10241", "bytes=-0"])
def test_a_part_beyond_the_end_is_refused(cluster: Cluster, wanted: str) -> None:
    """Such a range is answered 416, in the form of all refusals, with the file's size."""
    answer = fetch(cluster, upload(cluster)["id"], Range=wanted)
    assert (answer.status_code, answer.json()["error"]["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == "bytes */10240"


def test_a_part_of_another_file_is_not_taken(cluster: Cluster) -> None:
    """With If-Range, the part comes only while the file is the one that was begun."""
    known = upload(cluster)
    etag = f'"{known["sha256"]}"'
    assert fetch(cluster, known["id"], Range="bytes=5-", If_Range=etag).status_code == 206
    assert fetch(cluster, known["id"], Range="bytes=5-", If_Range='"other"').status_code == 200


def test_a_signed_url_needs_no_key(api: Api, cluster: Cluster) -> None:
    """It gives the bytes to whoever has it, for the time that the setting says; an altered one gives nothing."""
    known = upload(cluster)
    made = api.call("GET", f"/files/{known['id']}/url")
    url = urlsplit(made["url"])
    assert f"{url.scheme}://{url.netloc}" == cluster.broker.url
    assert made["expires_in"] == 3600
    assert abs(int(parse_qs(url.query)["expires"][0]) - time.time() - 3600) < 60
    assert httpx2.get(made["url"]).content == CONTENT
    assert httpx2.get(made["url"], headers={"Range": "bytes=1-2"}).content == CONTENT[1:3]
    other = upload(cluster)["id"]
    for wrong, status in (
        (made["url"].replace(known["id"], other), 403),
        (made["url"].replace("expires=", "expires=1"), 403),
        (made["url"] + "x", 403),
        (made["url"].partition("&")[0], 401),
        (made["url"].replace("expires=", "until="), 422),
        (made["url"].replace("expires=", "expires=-"), 422),
    ):
        answer = httpx2.get(wrong)
        assert (answer.status_code, set(answer.json())) == (status, {"error", "detail"})
    assert api.request("DELETE", f"/files/{known['id']}").status_code == 204
    assert httpx2.get(made["url"]).status_code == 404


@pytest.mark.parametrize("host", ["example.org:8443", "[::1", "a b", "é", "[x]:99999", ""])
def test_a_url_survives_any_host(cluster: Cluster, host: str) -> None:
    """Whatever a client calls the host, the answer is no failure of the server."""
    known = upload(cluster)
    head = (
        f"GET {BASE}/files/{known['id']}/url HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {cluster.broker.key('admin')}\r\n"
    )
    with socket.create_connection(("127.0.0.1", cluster.broker.port), 30) as connection:
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        status = connection.makefile("rb").readline().split()[1]
    assert status in (b"200", b"400", b"422")


@pytest.mark.parametrize(
    "body",
    [
        raw_body(),
        raw_body(('form-data; name="other"; filename="a"', b"x")),
        raw_body(('form-data; name="session"', b"x"), (FILE, b"x")),
        raw_body((FILE, b"x"), (FILE, b"y")),
        raw_body((FILE, b"x"), ('form-data; name="more"', b"y")),
        raw_body((FILE, b"x"), end=""),
        raw_body((FILE, b"x"), end=f"--{BOUNDARY}"),
        raw_body(("form-data", b"x")),
        raw_body(('form-data; name="file"; ' + "x" * 10_000, b"x")),
        f"--{BOUNDARY}\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode(),
        b"--another\r\n\r\n",
        b"\r\n" * 1000,
        b"{}",
        b"",
    ],
)
def test_a_body_that_is_no_file_is_refused(cluster: Cluster, body: bytes) -> None:
    """Anything but one whole file is answered 422 with the field and a hint, and leaves nothing."""
    before = stored(cluster)
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    answer = send(cluster, f"{BASE}/files/upload", content=body, headers={"Content-Type": kind})
    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (422, "file")
    assert "curl" in error["hint"]
    assert stored(cluster) == before


@pytest.mark.parametrize(
    "kind",
    [
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/mixed; boundary={BOUNDARY}",
        "é",
        "",
    ],
)
def test_another_content_type_is_refused(cluster: Cluster, kind: str) -> None:
    """A body that is no form is told so."""
    headers = {b"X-API-Key": cluster.broker.key("admin").encode(), b"Content-Type": kind.encode()}
    answer = httpx2.post(f"{cluster.broker.url}{BASE}/files/upload", content=raw_body((FILE, b"x")), headers=headers)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "file")


def test_a_boundary_may_come_in_pieces(cluster: Cluster) -> None:
    """However the body is cut, the same bytes are kept, also those that look like a boundary."""
    content = f"a\r\n--{BOUNDARY[:-1]}\r\n--{BOUNDARY[:5]}\r\n\r\n-".encode()
    body = raw_body((FILE, content))
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = send(cluster, f"{BASE}/files/upload/", content=(body[i : i + 1] for i in range(len(body))), headers=kind)
    assert fetch(cluster, answer.json()["id"]).content == content


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane that takes files up to `LIMIT`, as an admin has set."""
    with Cluster(tmp_path_factory.mktemp("limits"), FAST) as cluster:
        cluster.broker.start()
        cluster.broker.stop()
        with sqlite3.connect(cluster.broker.data_dir / "warren.db") as database:
            values = ("files.max_bytes", json.dumps(LIMIT), 1, "test")
            database.execute("INSERT INTO settings (key, value, updated_at, updated_by) VALUES (?, ?, ?, ?)", values)
        database.close()
        cluster.broker.start()
        yield cluster


def test_the_largest_file_is_taken(limited: Cluster) -> None:
    """The limit itself is no byte too many."""
    assert upload(limited, os.urandom(LIMIT))["size_bytes"] == LIMIT


@pytest.mark.parametrize("more", [1, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_larger_file_is_refused(limited: Cluster, more: int, chunked: bool) -> None:
    """Announced or not, it is answered 413 and nothing of it is left."""
    before = stored(limited)
    body = raw_body((FILE, bytes(LIMIT + more)))
    content = (body[i : i + 65_536] for i in range(0, len(body), 65_536)) if chunked else body
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = send(limited, f"{BASE}/files/upload", content=content, headers=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert stored(limited) == before


def test_what_follows_the_file_is_counted_too(limited: Cluster) -> None:
    """A body cannot go on without end behind its last boundary."""
    body = raw_body((FILE, b"x")) + bytes(LIMIT + 70_000)
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = send(limited, f"{BASE}/files/upload", content=iter([body[:100_000], body[100_000:]]), headers=kind)
    assert answer.status_code == 413


def test_a_client_that_leaves_leaves_nothing(limited: Cluster) -> None:
    """When the connection breaks in the middle of a file, its bytes are gone soon."""
    before = stored(limited)
    with begin_upload(limited, *before):
        pass
    wait_until("it is gone", lambda: stored(limited) == before)
    assert "request_crashed" not in limited.broker.output


def test_memory_does_not_hold_a_file(cluster: Cluster) -> None:
    """An upload and a download of 64 MiB leave the process about as large as it was."""
    block = os.urandom(1024 * 1024)
    upload(cluster)
    before = cluster.broker.memory_bytes()
    head, _, tail = raw_body((FILE, b"|")).partition(b"|")
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    body = (piece for piece in (head, *[block] * 64, tail))
    answer = send(cluster, f"{BASE}/files/upload", content=body, headers=kind)
    assert answer.json()["size_bytes"] == 64 * len(block)
    assert len(fetch(cluster, answer.json()["id"]).content) == 64 * len(block)
    assert cluster.broker.memory_bytes() - before < 24 * 1024 * 1024


def test_a_crash_leaves_no_row_without_bytes(tmp_path: Path) -> None:
    """Bytes that no row knows are swept at the next start; what is known stays, and so do the URLs given for it."""
    with Cluster(tmp_path, FAST) as cluster:
        cluster.broker.start()
        known = upload(cluster)
        url = cluster.api.call("GET", f"/files/{known['id']}/url")["url"]
        with begin_upload(cluster, known["id"]):
            cluster.broker.kill()
        folder = cluster.broker.data_dir / "files" / "aa"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / f"file_{'a' * 32}").write_bytes(b"kept, and not yet known")
        assert len(stored(cluster)) == 3
        cluster.broker.start()
        assert stored(cluster) == {known["id"]}
        assert httpx2.get(url).content == CONTENT


def test_a_full_disk_refuses_a_file_whole(tmp_path: Path) -> None:
    """A file for which there is no room is answered 507 and leaves nothing; with room again it is taken."""
    with SmallDisk(tmp_path / "disk", 24) as disk, Cluster(tmp_path, FAST) as cluster:
        cluster.broker.data_dir = disk.path / "data"
        cluster.broker.environment["WARREN_DATA_DIR"] = str(disk.path / "data")
        cluster.broker.start()
        answer = send(cluster, f"{BASE}/files/upload", files={"file": ("a", bytes(30 * 1024 * 1024))})
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
        assert not stored(cluster)
        assert upload(cluster)["size_bytes"] == len(CONTENT)
