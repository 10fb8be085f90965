"""Fetch the pinned `uv` into a folder, with nothing but Python's standard library: `fetch_uv.py FOLDER`.

The package index is the one that pip or uv would use, by their environment variables. Whatever the index or the
network answers, only the wheel with the SHA-256 written here is unpacked.
"""

import base64
import hashlib
import html
import io
import os
import platform
import re
import ssl
import sys
import zipfile
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit
from urllib.request import HTTPSHandler, OpenerDirector, Request, build_opener

VERSION = "0.13.9"
WHEELS = {
    "x86_64": (
        f"uv-{VERSION}-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    ),
    "aarch64": (
        f"uv-{VERSION}-py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64.whl",
        "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    ),
}
DEFAULT_INDEX = "https://pypi.org/simple/"
TIMEOUT_S = 60
TRIES = 3


class FetchError(Exception):
    """`uv` cannot be fetched; the message says what to do."""


def indexes(environ: dict[str, str]) -> list[str]:
    """Return the index URLs to look at, the default one first."""
    default = next(
        (environ[name] for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL") if environ.get(name)),
        DEFAULT_INDEX,
    )
    extra = (environ.get(name, "") for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"))
    # uv lets an index carry a name: `internal=https://…`.
    urls = (re.sub(r"^[\w.-]+=(?=\w+://)", "", url) for url in [default, *" ".join(extra).split()])
    return [url.rstrip("/") + "/" for url in urls]


def trust(environ: dict[str, str]) -> tuple[ssl.SSLContext, bool]:
    """Return how to speak TLS, and whether the server's certificate can be verified on this machine."""
    names = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    bundle = next((environ[name] for name in names if Path(environ.get(name, "")).is_file()), None)
    context = ssl.create_default_context(cafile=bundle)
    folder = Path(environ.get("SSL_CERT_DIR") or ssl.get_default_verify_paths().openssl_capath)
    if context.cert_store_stats()["x509_ca"] or any(folder.glob("*.0")):
        return context, True
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context, False


class Index:
    """Package indexes of the "simple" form, read over one TLS context."""

    def __init__(self, context: ssl.SSLContext, verified: bool) -> None:
        self._opener: OpenerDirector = build_opener(HTTPSHandler(context=context))
        self._verified = verified

    def wheel(self, index: str, name: str) -> bytes:
        """Return the file `name` of the project uv; raises FetchError if this index has none."""
        page_url = urljoin(index, "uv/")
        page = self._get(page_url).decode(errors="replace")
        for href in re.findall(r'href\s*=\s*["\']([^"\']+)', page):
            url = urldefrag(urljoin(page_url, html.unescape(href))).url
            if unquote(urlsplit(url).path).endswith("/" + name):
                return self._get(url)
        raise FetchError(f"{host(index)} does not have {name}")

    def _get(self, url: str, tries: int = TRIES) -> bytes:
        try:
            with self._opener.open(self._request(url), timeout=TIMEOUT_S) as response:
                body: bytes = response.read()
                return body
        except HTTPError as error:
            error.close()
            if error.code < 500 or tries == 1:
                raise FetchError(f"{host(url)}: {error.code} {error.reason}") from None
        except (OSError, HTTPException) as error:
            if tries == 1:
                raise FetchError(f"{host(url)}: {getattr(error, 'reason', error)}") from None
        return self._get(url, tries - 1)

    def _request(self, url: str) -> Request:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise FetchError(f"{parts.scheme}: is not supported here, only http and https")
        login, _, netloc = parts.netloc.rpartition("@")
        request = Request(urlunsplit(parts._replace(netloc=netloc)))
        if login:
            if parts.scheme == "https" and not self._verified:
                raise FetchError(f"no CA certificates to verify {netloc} with: not sending it a password")
            token = base64.b64encode(unquote(login).encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {token}")
        return request


def host(url: str) -> str:
    """Return the host of `url` for a message: never the login that may stand before it."""
    return urlsplit(url).netloc.rpartition("@")[2] or url


def unpack(wheel: bytes, sha256: str, target: Path) -> None:
    """Put the program in `wheel` at `target`, all or nothing; raises FetchError if the digest differs."""
    if hashlib.sha256(wheel).hexdigest() != sha256:
        raise FetchError("the downloaded uv does not have the expected SHA-256: nothing was installed")
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        program = archive.read(f"uv-{VERSION}.data/scripts/uv")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    draft.write_bytes(program)
    draft.chmod(0o755)
    draft.replace(target)


def fetch(target: Path, environ: dict[str, str]) -> None:
    """Put `uv` at `target`; raises FetchError when no index has it, with each one's reason."""
    if platform.machine() not in WHEELS:
        raise FetchError(f"there is no pinned uv for {platform.machine()}: install uv 0.8 or newer yourself")
    name, sha256 = WHEELS[platform.machine()]
    context, verified = trust(environ)
    if not verified:
        sys.stderr.write("dev: no CA certificates here: uv is fetched unverified and checked by its SHA-256\n")
    source = Index(context, verified)
    reasons = []
    for index in indexes(environ):
        try:
            return unpack(source.wheel(index, name), sha256, target)
        except FetchError as error:
            reasons.append(str(error))
    hint = "set PIP_INDEX_URL for a mirror, HTTPS_PROXY for a proxy, SSL_CERT_FILE for its certificate"
    raise FetchError(f"{'; '.join(reasons)}\n({hint}, or install uv 0.8 or newer)")


if __name__ == "__main__":
    try:
        fetch(Path(sys.argv[1]) / "uv", dict(os.environ))
    except (FetchError, OSError) as error:
        sys.exit(f"dev: cannot fetch uv {VERSION}: {error}")
