"""`warren dead-letter`: tasks that failed for good, and their second chance."""

from itertools import islice
from typing import Annotated

import typer

from client.cli.options import ApiOptions, confirm, expanded
from client.render import Column, Fit, age, field

app = typer.Typer(help="Dead letters: tasks that failed for good.", no_args_is_help=True)
Reference = Annotated[str, typer.Argument(help="The dead letter's id.")]


@app.command("list")
@expanded
def list_(
    api: ApiOptions,
    cause: Annotated[str | None, typer.Option(help="Only those with this cause, such as max_attempts.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many.")] = 50,
) -> None:
    """List dead letters."""
    with api.connect() as client:
        rows = list(islice(client.rows("/dead-letter", {"cause": cause}), limit))
    columns = [
        field("id"),
        field("action", fit=Fit.SPARE),
        field("cause"),
        age("dead_at", "dead for", Fit.SPARE),
        Column("error", lambda row: (row.get("error") or {}).get("message"), Fit.CUT),
    ]
    api.printer.rows(rows, columns, empty="no dead letters")


@app.command("show")
@expanded
def show(api: ApiOptions, reference: Reference) -> None:
    """Show one with everything that is known about its end."""
    with api.connect() as client:
        api.printer.record(client.get(f"/dead-letter/{reference}"))


@app.command("retry")
@expanded
def retry(
    api: ApiOptions,
    reference: Reference,
    wait: Annotated[bool, typer.Option("--wait", help="Follow its output until it has finished.")] = False,
) -> None:
    """Give its task a new life, with all its attempts."""
    from client.cli.watch import watch

    with api.connect() as client:
        task = client.post(f"/dead-letter/{reference}/retry")
        if wait:
            watch(client, api.printer, str(task["id"]))
        else:
            api.printer.done(f"task {task['id']} is {task['state']} again", task)


@app.command("delete")
@expanded
def delete(
    api: ApiOptions,
    reference: Reference,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete one for ever; its task stays dead."""
    confirm(f"Delete dead letter {reference}?", yes=yes)
    with api.connect() as client:
        client.delete(f"/dead-letter/{reference}")
    api.printer.done(f"dead letter {reference} deleted", {"deleted": reference})
