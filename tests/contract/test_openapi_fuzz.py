"""Schemathesis sends whatever the document allows and forbids to a running control plane, and believes no answer.

It tries the examples, the edges of each parameter, random requests and chains of them, as each kind of caller. A
finding ends with a command that repeats it. The document is fuzzed over HTTP, against a control plane of its own.

Each operation has a thing of its own to work on, so that most requests find what they name. What is no operation of
the document is tested elsewhere: `/ws` in test_event_socket.py, workers' sessions in test_hostile_frames.py, the two
streams behind `Accept: text/event-stream` in test_api_conventions.py.
"""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.inventory import Inventory
from tests.support.processes import FAST, wait_until

REPEATABLE = ("--seed", "1", "--generation-deterministic")
EXAMPLES = 2
"""Random requests for each operation, beside the edges; the long search has no such limit."""
CHAINS = 10
"""Sequences of requests."""
ALONE = "examples,coverage,fuzzing"
"""Phases in which no request builds on another."""
LONG_S = int(os.environ.get("WARREN_FUZZ_S", "1800"))
ENDLESS = ("followEvents",)
"""Not fuzzed, since an answer that never ends cannot be judged; what they refuse is tested below."""
WAITING = ("testConnection", "executeOnConnection")
"""Answer when a worker is done, up to minutes later, if the connection exists: fuzzed where none does."""
UNJUDGED = ("positive_data_acceptance",)
"""What the fields of a form mean together, and which names exist, is not in a schema: valid data may be refused."""
GENERATED = re.compile(r"^Test cases:\n +(\d[\d,]*) generated", re.MULTILINE)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane without workers, which lets everybody guess keys."""
    settings = {**FAST, "WARREN_AUTH_FAILURES_PER_MINUTE": "0"}
    with Cluster(tmp_path_factory.mktemp("fuzz"), settings) as cluster:
        cluster.broker.start()
        yield cluster


def excluded(names: Iterable[str]) -> list[str]:
    """Return the options that leave these operations out."""
    return [f"--exclude-operation-id={name}" for name in names]


def included(names: Iterable[str]) -> list[str]:
    """Return the options that leave all other operations out."""
    return [f"--include-operation-id={name}" for name in names]


@pytest.fixture(scope="module")
def document(cluster: Cluster) -> dict[str, Any]:
    """The document."""
    return document_of(cluster)


def document_of(cluster: Cluster) -> dict[str, Any]:
    """Return what a control plane says of itself."""
    headers = {"X-API-Key": cluster.broker.key("admin")}
    found: dict[str, Any] = httpx2.get(f"{cluster.broker.url}/openapi.json", headers=headers, trust_env=False).json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield method, path and description of each operation."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def furnished(cluster: Cluster, document: dict[str, Any]) -> str:
    """Return settings of schemathesis by which each operation has something to work on that exists."""
    key = cluster.broker.key("admin")
    with Api(cluster.broker.url, cluster.broker.key("worker")) as machine:
        inventory = Inventory(cluster.api, machine, lambda path: upload(cluster.broker.url + path, key))
        tables = [
            f"[[operations]]\ninclude-operation-id = {json.dumps(operation['operationId'])}\n[operations.parameters]\n"
            + "".join(f"{name} = {json.dumps(value)}\n" for name, value in known_values(inventory, path).items())
            for _, path, operation in operations(document)
            if "{" in path
        ]
    return "\n".join(tables)


def upload(url: str, key: str) -> httpx2.Response:
    """Send a file."""
    return httpx2.post(url, files={"file": ("a.bin", b"bytes")}, headers={"X-API-Key": key}, trust_env=False)


def known_values(inventory: Inventory, path: str) -> dict[str, Any]:
    """Return the parameters with which this path leads to something that exists."""
    collection = path.removeprefix("/api/v1/").partition("/{")[0]
    match collection:
        case "settings":
            return {"category": "tasks", "key": "default_agent"}
        case "agents":
            return {"reference": inventory.agent(), "version": 1}
        case "files":
            file_id = inventory.file()
            signature = inventory.signature(file_id)
            return {"file_id": file_id, **signature, "expires": int(signature["expires"])}
        case "tasks":
            return {"task_id": inventory.dead_task() if path.endswith("/retry") else inventory.task()}
        case "dead-letter":
            return {"dead_letter_id": inventory.dead_letter()}
        case "queues":
            return {"lane": inventory.queue()}
        case "security/api-keys":
            return {"key_id": inventory.key()}
    makers = {
        "workers": inventory.worker,
        "admin/workers": inventory.worker,
        "providers": inventory.provider,
        "ssh-connections": inventory.connection,
        "secrets": inventory.secret,
    }
    return {"reference": makers[collection]()}


def twins(document: dict[str, Any]) -> Iterator[str]:
    """Yield the names of operations whose handler, form and answer another one has too (see test_openapi.py)."""
    for methods in document["paths"].values():
        if {"put", "patch"} <= methods.keys():
            yield methods["put"]["operationId"]
    yield "listWorkersAsAdmin"


def roles(operation: dict[str, Any]) -> set[str]:
    """Return the roles that an operation asks for; empty if everybody may come."""
    return set(operation.get("x-roles", ()))


def of_workers(document: dict[str, Any]) -> list[str]:
    """Return the names of the operations that a worker may use."""
    return [operation["operationId"] for *_, operation in operations(document) if "worker" in roles(operation)]


def fuzz(cluster: Cluster, key: str | None, *options: str, settings: str = "", timeout_s: float = 600.0) -> int:
    """Run schemathesis with this key and return how much it tried; AssertionError if it found anything."""
    directory = cluster.directory
    (directory / "openapi.json").write_text(json.dumps(document_of(cluster)))
    (directory / "schemathesis.toml").write_text(settings)
    command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "run", "openapi.json"]
    command += ["--url", cluster.broker.url, "--checks", "all", "--exclude-checks", ",".join(UNJUDGED)]
    command += ["--header", f"Authorization: Bearer {key}"] if key else []
    command += ["--continue-on-failure", "--request-timeout", "20", "--warnings", "off"]
    command += options
    ended = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=timeout_s)
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr[-5_000:]
    generated = GENERATED.search(ended.stdout)
    assert generated, ended.stdout[-2000:]
    return int(generated[1].replace(",", ""))


def assert_unharmed(cluster: Cluster) -> None:
    """Assert that nothing crashed, and that the control plane is as healthy as before; its keys are still valid."""
    assert cluster.broker.alive
    assert cluster.api.call("GET", "/auth/whoami")["role"] == "admin"
    assert "request_crashed" not in cluster.broker.output
    assert httpx2.get(f"{cluster.broker.url}/readyz", trust_env=False).status_code == 200
    wait_until("every task has an owner", lambda: not cluster.ledger.violations())


def key_for(cluster: Cluster, role: str) -> str:
    """Return a new key of this role."""
    form = {"name": f"{role}-{secrets.token_hex(4)}", "role": role}
    return str(cluster.api.call("POST", "/security/api-keys", form)["key"])


@pytest.mark.timeout(600)
def test_an_administrator_finds_no_fault(cluster: Cluster, document: dict[str, Any]) -> None:
    """No server error, no status, header, media type or body that is not in the document."""
    chosen = excluded((*ENDLESS, *WAITING, *twins(document)))
    options = ("--phases", ALONE, "--max-examples", str(EXAMPLES), *chosen)
    settings = furnished(cluster, document)
    generated = fuzz(cluster, cluster.broker.key("admin"), *REPEATABLE, *options, settings=settings)
    assert generated > len(list(operations(document))) * 20
    assert_unharmed(cluster)


@pytest.mark.timeout(300)
def test_nor_do_chains_of_requests(cluster: Cluster) -> None:
    """The same for requests that work on what others have made, changed and deleted."""
    options = ("--phases", "stateful", "--max-examples", str(CHAINS), *excluded((*ENDLESS, *WAITING)))
    assert fuzz(cluster, cluster.broker.key("admin"), *REPEATABLE, *options) > CHAINS
    assert_unharmed(cluster)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("role", ["worker", "viewer", None])
def test_nobody_else_finds_one(cluster: Cluster, document: dict[str, Any], role: str | None) -> None:
    """The same for a worker (what workers may do), and more shortly for a viewer, and without any key."""
    key = key_for(cluster, role) if role else None
    settings = ""
    chosen: tuple[str, ...] = ("--phases", "fuzzing", "--max-examples", "1", *excluded(ENDLESS))
    if role == "worker":
        chosen = ("--phases", ALONE, "--max-examples", str(EXAMPLES), *included(of_workers(document)))
        settings = furnished(cluster, document)
    fuzz(cluster, key, *REPEATABLE, *chosen, settings=settings)
    assert_unharmed(cluster)


@pytest.mark.timeout(300)
def test_what_waits_has_no_fault_either(tmp_path: Path) -> None:
    """Operations that wait for workers take and refuse what the document says; here is nothing that they wait for."""
    with Cluster(tmp_path, FAST) as empty:
        empty.broker.start()
        options = ("--max-examples", "20", *included(WAITING))
        assert fuzz(empty, empty.broker.key("admin"), *REPEATABLE, *options) > 100
        assert_unharmed(empty)


@pytest.mark.long
@pytest.mark.timeout(LONG_S + 900)
def test_a_long_search_finds_no_fault(
    cluster: Cluster, document: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """These searches, from another beginning each time, for WARREN_FUZZ_S seconds together."""
    seed = secrets.randbelow(2**31)
    admin, machine = cluster.broker.key("admin"), cluster.broker.key("worker")
    all_of_them = excluded((*ENDLESS, *WAITING))
    settings = furnished(cluster, document)
    generated = 0
    for key, phases, chosen, known, share in (
        (admin, ALONE, all_of_them, settings, 0.5),
        (admin, "stateful", all_of_them, "", 0.4),
        (machine, ALONE, included(of_workers(document)), settings, 0.1),
    ):
        seconds = max(1, int(LONG_S * share))
        options = ("--seed", str(seed), "--max-time", str(seconds), "--generation-database", "none", "--phases", phases)
        generated += fuzz(cluster, key, *options, *chosen, settings=known, timeout_s=seconds + 300)
    with capsys.disabled():
        sys.stdout.write(f"\nfuzzed the API: {generated:,} test cases in {LONG_S} s, seed {seed}, no fault\n")
    assert_unharmed(cluster)


def test_each_role_may_do_what_the_document_says(cluster: Cluster, document: dict[str, Any]) -> None:
    """Each operation answers 401 without a key, 403 without the role, and something else with it."""
    contains = {"viewer": {"viewer"}, "operator": {"viewer", "operator"}, "worker": {"worker"}}
    contains["admin"] = {"viewer", "operator", "admin"}
    keys = {role: key_for(cluster, role) for role in contains}
    problems = []
    with httpx2.Client(base_url=cluster.broker.url, trust_env=False, timeout=30) as http:
        for method, path, operation in operations(document):
            needed = roles(operation)
            if not needed or {} in operation["security"]:
                continue
            url = re.sub(r"\{[^}]*\}", "nothing-is-called-so", path)
            form: dict[str, Any] | None = {} if "requestBody" in operation else None
            for role, key in [(None, None), *keys.items()]:
                headers = {"Authorization": f"Bearer {key}"} if key else {}
                with http.stream(method, url, headers=headers, json=form) as answer:
                    status = answer.status_code
                expected = 401 if role is None else 403 if not contains[role] & needed else None
                if status != expected and (expected is not None or status in (401, 403)):
                    problems.append(f"{method} {path} as {role or 'nobody'}: {status}")
    assert not problems, "\n".join(["", *problems])


def test_the_endless_stream_is_refused_as_others_are(cluster: Cluster) -> None:
    """What is not fuzzed still refuses what makes no sense, and begins at once with what does."""
    with Api(cluster.broker.url, cluster.broker.key("admin")) as api:
        for query in ("after=-1", "after=x", f"after={2**63}", "after=%00"):
            assert api.request("GET", f"/events?{query}").status_code == 422
        assert api.request("GET", "/events", headers={"Last-Event-ID": "x"}).status_code == 422
    headers = {"X-API-Key": cluster.broker.key("admin")}
    with httpx2.stream("GET", f"{cluster.broker.url}/api/v1/events", headers=headers, trust_env=False) as answer:
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        assert next(answer.iter_lines()) == ": open"
