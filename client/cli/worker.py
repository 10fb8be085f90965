"""`warren worker`: the machines of the fleet, and this one as one of them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli import columns
from client.cli.commands import group
from client.cli.noun import Noun, verb
from client.cli.options import ApiOptions, Reason, Yes, confirm
from client.render import Column, Fit, age, counted, field
from protocols.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from client.http import ApiClient

GLANCE_S = 1.0


def _percent(name: str) -> Column:
    def text(row: Any) -> str:
        value = (row.get("heartbeat") or {}).get(f"{name}_percent")
        return "" if value is None else f"{value:.0f}%"

    return Column(name, text, Fit.SPARE)


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which workers to list."""

    status: Annotated[str | None, typer.Option(help="Only those with this status, such as online or pending.")] = None
    pool: Annotated[str | None, typer.Option(help="Only those that serve this pool.")] = None
    group: Annotated[str | None, typer.Option(help="Only those of this group.")] = None


app = group("worker", "warren worker run\nwarren worker approve web-1")
worker = Noun(
    app=app,
    name="worker",
    path="/workers",
    columns=[
        field("name", fit=Fit.CUT),
        field("status"),
        field("fingerprint"),
        field("running"),
        age("last_seen_at", "seen", Fit.SPARE),
        field("pools", fit=Fit.SPARE),
        _percent("cpu"),
        _percent("memory"),
        field("id", fit=Fit.SPARE),
    ],
    empty="no worker yet: `warren worker run --help`",
    sample="web-1",
)


@verb(app, "run", "warren worker run --url https://warren.example:8000 --key-file worker.key")
def run(
    url: Annotated[
        str | None, typer.Option(envvar=["WARREN_WORKER_URL", "WARREN_URL"], help="The control plane.")
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(envvar="WARREN_WORKER_KEY_FILE", help="A file with a worker's API key; a local one is found."),
    ] = None,
    state_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="WARREN_WORKER_STATE_DIR",
            show_default="~/.local/state/warren/worker",
            help="Where this worker keeps its identity.",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(envvar="WARREN_WORKER_NAME", help="What people call it; the host's name by default.")
    ] = None,
    pool: Annotated[
        list[str] | None, typer.Option(metavar="<str>", help="A pool to take tasks from; repeat it for more.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="WARREN_DATA_DIR", help="A local control plane's data directory.")
    ] = None,
) -> None:
    """Run a worker here. It waits until an admin approves it."""
    from platformdirs import user_state_path

    from client.profile import WORKER_KEY_FILE, check_url, recorded_url, resolve_data_dir
    from client.programs import become, require, worker_environ

    require("worker")
    directory = resolve_data_dir(data_dir)
    address = check_url(url or recorded_url(directory) or "", directory)
    key = key_file or directory / WORKER_KEY_FILE
    if not key.is_file():
        raise InvalidInput(
            f"there is no worker key in {key}",
            hint="copy worker.key from the control plane's data directory and name it with --key-file",
        )
    become("worker", worker_environ(address, key, state_dir or user_state_path("warren") / "worker", name, pool or ()))


worker.lists(Filters, "--status pending")
worker.shows()


@worker.verb("approve", "--fingerprint 'SHA256:…'")
def approve(
    api: ApiOptions,
    reference: str,
    fingerprint: Annotated[
        str | None, typer.Option(help="The fingerprint that the worker itself shows; without it you are asked.")
    ] = None,
    pool: Annotated[
        list[str] | None, typer.Option(metavar="<str>", help="A pool it shall serve; repeat it for more.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="A group to sort by.")] = None,
    yes: Yes = False,
) -> None:
    """Let a worker take tasks. Compare its fingerprint first: it proves which machine this is."""
    with api.connect() as client:
        found = client.get(worker.at(reference))
        if fingerprint is None:
            confirm(
                f"{found['name']} on {found.get('hostname')} has the fingerprint {found['fingerprint']}.\n"
                "Does the worker itself show the same?",
                yes=yes,
            )
        form: dict[str, Any] = {"is_approved": True, "fingerprint": fingerprint or found["fingerprint"]}
        if pool:
            form["pools"] = pool
        if group:
            form["group"] = group
        approved = client.patch(f"/admin/workers/{found['id']}/approve", form)
    api.printer.done(f"worker {approved['name']} is approved", approved)


@worker.verb("reject", "--yes")
def reject(api: ApiOptions, reference: str, yes: Yes = False) -> None:
    """Turn a worker away, or take its approval back."""
    confirm(f"Turn worker {reference} away?", yes=yes)
    with api.connect() as client:
        found = client.get(worker.at(reference))
        rejected = client.patch(f"/admin/workers/{found['id']}/approve", {"is_approved": False})
    api.printer.done(f"worker {rejected['name']} is {rejected['approval']}", rejected)


@worker.verb("drain", "--wait --reason 'new kernel'")
def drain(
    api: ApiOptions,
    reference: str,
    reason: Reason = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when nothing runs there any more.")] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="With --wait: seconds, after which this gives up and exits 5.")
    ] = None,
) -> None:
    """Let a worker finish what it runs and take nothing new. It stays so until it is resumed."""
    with api.connect() as client:
        drained = client.post(worker.at(reference, "drain"), {"reason": reason} if reason else None)
        if wait:
            drained = _idle(client, api, reference, timeout)
    left = f"; it still runs {counted(drained['running'], 'task')}" if drained["running"] else " and runs nothing"
    api.printer.done(f"worker {drained['name']} takes nothing new{left}", drained)


@worker.verb("resume")
def resume(api: ApiOptions, reference: str) -> None:
    """Let a drained worker take tasks again."""
    with api.connect() as client:
        resumed = client.post(worker.at(reference, "resume"))
    api.printer.done(f"worker {resumed['name']} takes tasks again", resumed)


@worker.verb("tasks")
def tasks(api: ApiOptions, reference: str) -> None:
    """List unfinished tasks that wait for it alone. That is: that are pinned to it, or belong to its agents."""
    with api.connect() as client:
        rows = list(client.rows(worker.at(reference, "tasks")))
    api.printer.rows(rows, columns.TASKS, empty="no tasks wait for this worker alone")


@verb(app, "overview", "warren worker overview")
def overview(api: ApiOptions) -> None:
    """Sum up the fleet: how many are there, and how busy."""
    with api.connect() as client:
        api.printer.record(client.get("/workers/overview"))


def _idle(client: "ApiClient", api: ApiOptions, reference: str, timeout_s: float | None) -> dict[str, Any]:
    """Return the worker when it runs nothing; raises Unavailable if it still does after `timeout_s`."""
    started = time.monotonic()
    told = 0
    while (found := client.get(worker.at(reference)))["running"]:
        if found["running"] != told:
            told = int(found["running"])
            api.printer.remark(f"waiting for {counted(told, 'task')}")
        if timeout_s is not None and time.monotonic() - started >= timeout_s:
            raise Unavailable(
                f"worker {reference} still runs {counted(told, 'task')} after {timeout_s:g} s",
                hint="it stays drained; wait again, or cancel its tasks",
            )
        time.sleep(GLANCE_S)
    return found
