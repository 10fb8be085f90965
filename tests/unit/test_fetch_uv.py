"""Fetching the pinned `uv` trusts its digest, and nothing that an index or the network says."""

import base64
import hashlib
import io
import platform
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tools.fetch_uv import DEFAULT_INDEX, VERSION, WHEELS, FetchError, Index, fetch, indexes, trust, unpack

ROOT = Path(__file__).resolve().parents[2]


class IndexServer(ThreadingHTTPServer):
    """A package index on loopback that serves `files` and records the logins that it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.logins: list[str | None] = []

    def url(self, login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self.server_port}/simple/"

    def add(self, name: str, content: bytes) -> None:
        self.files["/simple/uv/"] = f'<a href="../../files/{name}#sha256=00">{name}</a>'.encode()
        self.files[f"/files/{name}"] = content


class _Handler(BaseHTTPRequestHandler):
    server: IndexServer

    def do_GET(self) -> None:
        self.server.logins.append(self.headers.get("Authorization"))
        body = self.server.files.get(self.path)
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        pass


@pytest.fixture
def server() -> Iterator[IndexServer]:
    with IndexServer() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def source() -> Index:
    return Index(*trust({}))


def wheel(program: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(f"uv-{VERSION}.data/scripts/uv", program)
    return content.getvalue()


def test_wheel_is_found_and_unpacked(server: IndexServer, source: Index, tmp_path: Path) -> None:
    """What the index links to by the wheel's name becomes one executable file, with no remains beside it."""
    content = wheel(b"program")
    server.add("uv.whl", content)
    target = tmp_path / "new" / "uv"
    unpack(source.wheel(server.url(), "uv.whl"), hashlib.sha256(content).hexdigest(), target)
    assert target.read_bytes() == b"program"
    assert target.stat().st_mode & stat.S_IXUSR
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.skipif(platform.machine() not in WHEELS, reason="uv is not pinned for this machine")
def test_altered_wheel_is_not_installed(server: IndexServer, tmp_path: Path) -> None:
    """An index that serves something else under the right name gets nothing onto the machine."""
    server.add(WHEELS[platform.machine()][0], wheel(b"evil"))
    with pytest.raises(FetchError, match="SHA-256"):
        fetch(tmp_path / "uv", {"PIP_INDEX_URL": server.url()})
    assert not list(tmp_path.iterdir())


def test_login_of_an_index_is_sent_and_never_shown(server: IndexServer, source: Index) -> None:
    """The login in an index's URL goes to that index as a header, and into no error message."""
    with pytest.raises(FetchError) as caught:
        source.wheel(server.url("us%40er:pa%2Fss@"), "uv.whl")
    assert server.logins == ["Basic " + base64.b64encode(b"us@er:pa/ss").decode()]
    assert "pa" not in str(caught.value).replace("page", "")


def test_login_is_not_sent_where_the_server_cannot_be_verified() -> None:
    """Without CA certificates a password would go to whoever answers, so it does not go at all."""
    context, _ = trust({})
    with pytest.raises(FetchError, match="no CA certificates"):
        Index(context, verified=False).wheel("https://user:pass@127.0.0.1:1/simple/", "uv.whl")


def test_local_files_are_no_index(source: Index) -> None:
    """Only http and https are read, so that no link of a page can name a file of this machine."""
    with pytest.raises(FetchError, match="only http and https"):
        source.wheel("file:///etc/", "uv.whl")


def test_missing_certificates_are_noticed(tmp_path: Path) -> None:
    """A machine without CA certificates fetches by digest alone, and knows it."""
    environ = {"SSL_CERT_FILE": str(tmp_path / "none"), "SSL_CERT_DIR": str(tmp_path)}
    # In a process of its own: OpenSSL reads these variables itself.
    program = "import os; from tools.fetch_uv import trust; print(trust(dict(os.environ))[1])"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environ, capture_output=True, check=True)
    assert result.stdout == b"False\n"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, [DEFAULT_INDEX]),
        ({"PIP_INDEX_URL": "https://a/simple"}, ["https://a/simple/"]),
        ({"PIP_INDEX_URL": "https://a/", "UV_INDEX_URL": "https://b/"}, ["https://b/"]),
        ({"UV_INDEX_URL": "https://b/", "UV_DEFAULT_INDEX": "https://c/"}, ["https://c/"]),
        ({"PIP_EXTRA_INDEX_URL": "https://d https://e"}, [DEFAULT_INDEX, "https://d/", "https://e/"]),
        ({"UV_INDEX": "inner=https://f/"}, [DEFAULT_INDEX, "https://f/"]),
    ],
)
def test_index_is_the_one_that_pip_or_uv_would_use(environ: dict[str, str], expected: list[str]) -> None:
    """uv's variables win over pip's, and extra indexes come after the default one."""
    assert indexes(environ) == expected
