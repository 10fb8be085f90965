"""`warren task`: what was asked for, and what became of it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from client.cli import columns, task_submit
from client.cli.commands import group
from client.cli.complete import names
from client.cli.noun import Noun, verb
from client.cli.options import DEFAULT_LIMIT, ApiOptions, Limit, PriorityName, Reason, changes, past
from client.render import Column, Fit, age, field
from protocols.states import TaskState


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which tasks to list."""

    state: Annotated[TaskState | None, typer.Option(help="Only those in this state.")] = None
    action: Annotated[str | None, typer.Option(help="Only those of this action, such as llm.chat.")] = None
    priority: Annotated[PriorityName | None, typer.Option(help="Only those of this priority.")] = None
    agent_id: Annotated[
        str | None, typer.Option("--agent", help="Only those of this agent.", autocompletion=names("/agents"))
    ] = None
    lane: Annotated[
        str | None, typer.Option("--queue", help="Only those of this queue.", autocompletion=names("/queues"))
    ] = None
    pool: Annotated[str | None, typer.Option(help="Only those of this pool.")] = None
    worker_id: Annotated[str | None, typer.Option("--worker", help="Only those that this worker runs or ran last.")] = (
        None
    )
    parent_id: Annotated[str | None, typer.Option("--parent", help="Only those that follow this task.")] = None
    created_after: Annotated[
        str | None, typer.Option(help="Only newer ones: a time, or how long ago, such as 2h.", callback=past)
    ] = None
    created_before: Annotated[
        str | None, typer.Option(help="Only older ones: a time, or how long ago, such as 7d.", callback=past)
    ] = None


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What can be changed: the first two at any time, the others until a worker has begun."""

    title: Annotated[str | None, typer.Option(help="A few words for people.")] = None
    description: Annotated[str | None, typer.Option(help="More words for people.")] = None
    priority: Annotated[PriorityName | None, typer.Option(help="How soon, against others of its queue.")] = None
    deadline: Annotated[str | None, typer.Option(help="When it is too late, such as 2030-01-31T12:00:00Z.")] = None
    instructions: Annotated[str | None, typer.Option(help="What its agent shall do.")] = None


app = group("task", "warren task submit ssh web-1 --wait -- uptime\nwarren task list --state dead")
app.add_typer(task_submit.app, name="submit")
task = Noun(
    app=app,
    name="task",
    path="/tasks",
    columns=columns.TASKS,
    empty="no tasks; submit one: `warren task submit --help`",
    sample="task_0197",
    many="tasks, newest first",
    by="The task's id.",
    named=False,
)
task.lists(Filters, "--state dead --created-after 2h")
task.shows()


@task.verb("watch")
def watch(api: ApiOptions, reference: str) -> None:
    """Print a task's output as it arises, and end as it ends.

    Exits 0 if it succeeds, 3 if it dies, 4 if it is cancelled, 5 if the control plane cannot be reached. What goes
    wrong in between, such as a worker that is lost or a connection that breaks, is waited out.
    """
    from client.cli.watch import watch

    with api.connect() as client:
        watch(client, api.printer, reference)


@task.verb("cancel", "--reason 'no longer needed'")
def cancel(api: ApiOptions, reference: str, reason: Reason = None) -> None:
    """Cancel a task. At once while it waits; a running one is asked to stop."""
    with api.connect() as client:
        cancelled = client.post(task.at(reference, "cancel"), {"reason": reason} if reason else None)
    asked = cancelled["state"] != TaskState.CANCELLED
    api.printer.done(f"task {reference} " + ("was asked to stop" if asked else "is cancelled"), cancelled)


@task.verb("retry", "--wait")
def retry(api: ApiOptions, reference: str, wait: task_submit.Wait = False) -> None:
    """Give a dead task a new life, with all of its tries."""
    with api.connect() as client:
        task_submit.follow_or_tell(api, client, client.post(task.at(reference, "retry")), wait=wait)


@task.verb("edit", "--priority high", also=("update", "set"))
def edit(api: ApiOptions, reference: str, form: Changes) -> None:
    """Change a task. Title and description at any time, the rest until a worker has begun; '' takes a value away."""
    with api.connect() as client:
        edited = client.patch(task.at(reference), changes(form))
    api.printer.done(f"task {reference} updated", edited)


@task.verb("attempts")
def attempts(api: ApiOptions, reference: str) -> None:
    """List how often it was tried, where, and how each time ended."""
    with api.connect() as client:
        rows = list(client.rows(task.at(reference, "attempts")))
    if api.printer.for_programs:
        api.printer.data(rows)
        return
    shown = [
        field("attempt"),
        age("published_at", "age"),
        field("worker"),
        field("outcome"),
        Column("took", _took, Fit.SPARE),
        Column("error", _message, Fit.CUT),
    ]
    api.printer.rows(_executions(rows), shown, empty="it has not been tried yet")


@task.verb("timeline")
def timeline(api: ApiOptions, reference: str) -> None:
    """Tell what happened to it, sentence by sentence."""
    with api.connect() as client:
        rows = list(client.rows(task.at(reference, "timeline")))
    shown = [Column("after", _after), field("summary", "what", Fit.FOLD)]
    api.printer.rows(rows, shown, empty="nothing has happened to it yet")


@task.verb("tree")
def tree(api: ApiOptions, reference: str) -> None:
    """Show what it follows, and what follows it."""
    with api.connect() as client:
        found = client.get(task.at(reference, "tree"))
    if api.printer.for_programs:
        api.printer.data(found)
        return
    api.printer.tree(found["root"], lambda node: (node["id"], node["state"], node.get("title") or node["action"]))
    if found.get("truncated"):
        api.printer.remark("there are more than are shown")


@verb(app, "stats", "warren task stats")
def stats(api: ApiOptions) -> None:
    """Count tasks by state and by priority."""
    with api.connect() as client:
        found = client.get("/tasks/stats")
    api.printer.record(found if api.printer.for_programs else {**found, "by_status": None})


@task.verb("output", "> output.txt")
def output(api: ApiOptions, reference: str) -> None:
    """Print what its last execution wrote, byte for byte."""
    with api.connect() as client:
        content = client.request("GET", task.at(reference, "output")).content
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


@task.verb("events", "--follow")
def events(
    api: ApiOptions,
    reference: str,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has finished.")] = False,
    limit: Limit = DEFAULT_LIMIT,
) -> None:
    """List what the journal says about it, oldest first."""
    with api.connect() as client:
        if follow:
            from client.cli.watch import watch_events

            watch_events(client, api.printer, task.at(reference))
            return
        rows = api.first(client.rows(task.at(reference, "events")), limit)
    shown = [
        field("id", fit=Fit.SPARE),
        age("at", "age"),
        field("type"),
        field("attempt", fit=Fit.SPARE),
        field("data", fit=Fit.CUT),
    ]
    api.printer.rows(rows, shown, empty="nothing has happened to it yet")


def _executions(attempts: Sequence[Any]) -> list[dict[str, Any]]:
    """Return a row for each execution of each attempt, and one for an attempt that no worker began."""
    return [{**attempt, **execution} for attempt in attempts for execution in attempt.get("executions") or [{}]]


def _took(row: Any) -> str:
    return "" if row.get("duration_s") is None else f"{row['duration_s']:,.1f} s"


def _message(row: Any) -> object:
    return (row.get("error") or {}).get("message")


def _after(row: Any) -> str:
    return f"{row['elapsed_s']:,.1f} s"
