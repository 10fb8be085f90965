"""`warren dead-letter`: tasks that failed for good, and their second chance."""

from dataclasses import dataclass
from typing import Annotated

import typer

from client.cli.commands import group
from client.cli.complete import names
from client.cli.noun import Noun, verb
from client.cli.options import ApiOptions, Reason, Yes, confirm, given, past
from client.cli.task_submit import Wait, follow_or_tell
from client.render import Column, Fit, age, counted, field
from protocols.states import CauseOfDeath


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which dead letters."""

    cause: Annotated[CauseOfDeath | None, typer.Option(help="Only those with this cause.", metavar="CAUSE")] = None
    action: Annotated[str | None, typer.Option(help="Only those of this action, such as llm.chat.")] = None
    lane: Annotated[
        str | None, typer.Option("--queue", help="Only those of this queue.", autocompletion=names("/queues"))
    ] = None
    error_code: Annotated[str | None, typer.Option(help="Only those whose last error has this code.")] = None
    dead_after: Annotated[
        str | None, typer.Option(help="Only those dead since: a time, or how long ago, such as 2h.", callback=past)
    ] = None
    dead_before: Annotated[
        str | None, typer.Option(help="Only those dead before: a time, or how long ago, such as 7d.", callback=past)
    ] = None


RETRY_ALL_S = 600.0
"""How long the control plane may take for all of them; a hundred thousand take minutes."""

app = group("dead-letter", "warren dead-letter list\nwarren dead-letter retry-all --cause unavailable --dead-after 2h")
dead_letter = Noun(
    app=app,
    name="dead-letter",
    path="/dead-letter",
    columns=[
        field("id"),
        field("action", fit=Fit.SPARE),
        field("cause"),
        age("dead_at", "dead for", Fit.SPARE),
        Column("error", lambda row: (row.get("error") or {}).get("message"), Fit.CUT),
    ],
    empty="no dead letters",
    sample="dead_0197",
    many="dead letters that nobody has dealt with, newest first",
    by="The dead letter's id.",
    named=False,
)
dead_letter.lists(Filters, "--cause max_attempts")
dead_letter.shows()


@verb(app, "add", "warren dead-letter add task_0197 --reason 'its host is gone for good'", also=("create",))
def add(
    api: ApiOptions,
    task: Annotated[str, typer.Argument(help="The id of a task that waits.")],
    reason: Reason = None,
    yes: Yes = False,
) -> None:
    """Give up a task that nobody runs."""
    confirm(f"Give task {task} up?", yes=yes)
    form = {"task_id": task} | ({"reason": reason} if reason else {})
    with api.connect() as client:
        added = client.post("/dead-letter", form)
    api.printer.done(f"task {task} is given up: dead letter {added['id']}", added)


@dead_letter.verb("retry", "--wait")
def retry(api: ApiOptions, reference: str, wait: Wait = False) -> None:
    """Give its task a new life, with all of its tries."""
    with api.connect() as client:
        follow_or_tell(api, client, client.post(dead_letter.at(reference, "retry")), wait=wait)


@verb(app, "retry-all", "warren dead-letter retry-all --cause unavailable --dead-after 2h --yes")
def retry_all(api: ApiOptions, filters: Filters, yes: Yes = False) -> None:
    """Give all of them a new life, or those that the options name."""
    chosen = given(filters)
    which = ", ".join(f"{name} {value}" for name, value in chosen.items())
    confirm(f"Retry all dead letters with {which}?" if which else "Retry ALL dead letters?", yes=yes)
    with api.connect(timeout_s=RETRY_ALL_S) as client:
        done = client.post("/dead-letter/retry-all", chosen)
    skipped = f", {done['skipped']:,} skipped that had changed meanwhile" if done.get("skipped") else ""
    api.printer.done(f"retried {counted(done['retried'], 'task')}{skipped}", done)


@verb(app, "stats", "warren dead-letter stats")
def stats(api: ApiOptions) -> None:
    """Count dead letters by cause and by action."""
    with api.connect() as client:
        api.printer.record(client.get("/dead-letter/stats"))


dead_letter.deletes("Its task stays dead.")
