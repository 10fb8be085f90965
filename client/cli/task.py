"""`warren task`: what was asked for, and what became of it."""

from itertools import islice
from typing import Annotated

import typer

from client.cli import task_submit
from client.cli.options import ApiOptions, expanded
from client.render import Column, Fit, age, field

app = typer.Typer(help="Tasks: submit, follow, cancel.", no_args_is_help=True)
app.add_typer(task_submit.app, name="submit")
Reference = Annotated[str, typer.Argument(help="The task's id.")]


@app.command("list")
@expanded
def list_(
    api: ApiOptions,
    state: Annotated[str | None, typer.Option(help="Only those in this state, such as running or dead.")] = None,
    action: Annotated[str | None, typer.Option(help="Only those of this action, such as llm.chat.")] = None,
    priority: Annotated[str | None, typer.Option(help="Only those of this priority.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many.")] = 50,
) -> None:
    """List tasks, newest first."""
    query = {"state": state, "action": action, "priority": priority, "limit": min(limit, 200)}
    with api.connect() as client:
        rows = list(islice(client.rows("/tasks", query), limit))
    columns = [
        field("id"),
        field("state"),
        field("action", fit=Fit.SPARE),
        field("tries", fit=Fit.SPARE),
        age("created_at", "age"),
        Column("title", lambda row: row.get("title") or (row.get("error") or {}).get("message"), Fit.CUT),
    ]
    api.printer.rows(rows, columns, empty="no tasks; submit one: `warren task submit --help`")


@app.command("show")
@expanded
def show(api: ApiOptions, reference: Reference) -> None:
    """Show a task with its input, result and error."""
    with api.connect() as client:
        api.printer.record(client.get(f"/tasks/{reference}"))


@app.command("watch")
@expanded
def watch_(api: ApiOptions, reference: Reference) -> None:
    """Print a task's output as it arises; exits 0, or 3 if the task dies, 4 if it is cancelled."""
    from client.cli.watch import watch

    with api.connect() as client:
        watch(client, api.printer, reference)


@app.command("cancel")
@expanded
def cancel(
    api: ApiOptions,
    reference: Reference,
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
) -> None:
    """Cancel a task: at once while it waits; a running one is asked to stop."""
    with api.connect() as client:
        task = client.post(f"/tasks/{reference}/cancel", {"reason": reason} if reason else None)
    asked = task["state"] != "cancelled"
    api.printer.done(f"task {task['id']} " + ("was asked to stop" if asked else "is cancelled"), task)
