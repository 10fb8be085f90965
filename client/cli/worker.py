"""`warren worker`: the machines of the fleet, and this one as one of them."""

from pathlib import Path
from typing import Annotated, Any

import typer

from client.cli.options import ApiOptions, confirm, expanded
from client.render import Column, Fit, age, field
from protocols.errors import InvalidInput

app = typer.Typer(help="Workers: run one here, look at the fleet, approve.", no_args_is_help=True)
Reference = Annotated[str, typer.Argument(help="The worker's name or id.")]


@app.command("run")
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
    pool: Annotated[list[str] | None, typer.Option(help="A pool to take tasks from; repeat it for more.")] = None,
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


@app.command("list")
@expanded
def list_(api: ApiOptions) -> None:
    """List the fleet."""
    with api.connect() as client:
        rows = list(client.rows("/workers"))
    columns = [
        field("name"),
        field("status"),
        field("fingerprint"),
        field("running"),
        field("pools", fit=Fit.SPARE),
        Column("cpu", lambda row: _percent(row, "cpu_percent"), Fit.SPARE),
        Column("memory", lambda row: _percent(row, "memory_percent"), Fit.SPARE),
        age("last_seen_at", "seen"),
        field("id", fit=Fit.SPARE),
    ]
    api.printer.rows(rows, columns, empty="no worker yet: `warren worker run --help`")


@app.command("show")
@expanded
def show(api: ApiOptions, reference: Reference) -> None:
    """Show one worker."""
    with api.connect() as client:
        api.printer.record(client.get(f"/workers/{reference}"))


@app.command("approve")
@expanded
def approve(
    api: ApiOptions,
    reference: Reference,
    fingerprint: Annotated[
        str | None, typer.Option(help="The fingerprint that the worker itself shows; without it you are asked.")
    ] = None,
    pool: Annotated[list[str] | None, typer.Option(help="A pool it shall serve; repeat it for more.")] = None,
    group: Annotated[str | None, typer.Option(help="A group to sort by.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Let a worker take tasks. Compare its fingerprint first: it proves which machine this is."""
    with api.connect() as client:
        worker = client.get(f"/workers/{reference}")
        if fingerprint is None:
            confirm(
                f"{worker['name']} on {worker.get('hostname')} has the fingerprint {worker['fingerprint']}.\n"
                "Does the worker itself show the same?",
                yes=yes,
            )
        form: dict[str, Any] = {"is_approved": True, "fingerprint": fingerprint or worker["fingerprint"]}
        if pool:
            form["pools"] = pool
        if group:
            form["group"] = group
        approved = client.patch(f"/admin/workers/{worker['id']}/approve", form)
    api.printer.done(f"worker {approved['name']} is approved", approved)


@app.command("reject")
@expanded
def reject(
    api: ApiOptions,
    reference: Reference,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Turn a worker away, or take its approval back."""
    confirm(f"Turn worker {reference} away?", yes=yes)
    with api.connect() as client:
        worker = client.get(f"/workers/{reference}")
        rejected = client.patch(f"/admin/workers/{worker['id']}/approve", {"is_approved": False})
    api.printer.done(f"worker {rejected['name']} is {rejected['approval']}", rejected)


def _percent(row: Any, name: str) -> str:
    value = (row.get("heartbeat") or {}).get(name)
    return "" if value is None else f"{value:.0f}%"
