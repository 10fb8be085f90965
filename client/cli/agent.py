"""`warren agent`: profiles that tasks can be given to."""

from dataclasses import dataclass
from typing import Annotated

import typer

from client.cli.commands import group
from client.cli.complete import names
from client.cli.noun import Noun
from client.cli.options import ApiOptions
from client.render import Fit, age, field


@dataclass(frozen=True, kw_only=True)
class Form:
    """What can be said about an agent."""

    description: Annotated[str | None, typer.Option(help="What it is for.")] = None
    role: Annotated[str | None, typer.Option(help="A word for its part in the whole.")] = None
    llm_provider: Annotated[
        str | None,
        typer.Option("--provider", "-p", help="The provider of its model.", autocompletion=names("/providers")),
    ] = None
    llm_model: Annotated[str | None, typer.Option("--model", "-m", help="The provider's name for its model.")] = None
    system_prompt: Annotated[str | None, typer.Option("--system", help="Its system prompt.")] = None
    enabled_tools: Annotated[
        list[str] | None, typer.Option("--tool", metavar="<str>", help="A tool that it may use; repeat it for more.")
    ] = None
    pool: Annotated[str | None, typer.Option(help="The pool of workers that run its tasks.")] = None
    worker_id: Annotated[
        str | None,
        typer.Option("--worker", help="The one worker that runs its tasks.", autocompletion=names("/workers")),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Changes(Form):
    """What can be changed."""

    name: Annotated[str | None, typer.Option(help="Another name.")] = None


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which agents to list."""

    status: Annotated[str | None, typer.Option(help="Only those that are idle, busy or offline.")] = None
    role: Annotated[str | None, typer.Option(help="Only those with this role.")] = None


app = group("agent", "warren agent create writer -p openai -m gpt-5-mini --system 'You write short texts.'")
agent = Noun(
    app=app,
    name="agent",
    article="an",
    path="/agents",
    columns=[
        field("name"),
        field("status"),
        field("role", fit=Fit.SPARE),
        field("llm_provider", "provider"),
        field("llm_model", "model", Fit.CUT),
        field("pool", fit=Fit.SPARE),
        field("version", fit=Fit.SPARE),
        age("updated_at", "changed", Fit.SPARE),
    ],
    empty="no agent yet: `warren agent create --help`",
    sample="writer",
)
agent.lists(Filters, "--status busy")
agent.shows()
agent.creates(Form, "-p openai -m gpt-5-mini")
agent.updates(Changes, "--model gpt-5")
agent.deletes("Its tasks stay.")


@agent.verb("start")
def start(api: ApiOptions, reference: str) -> None:
    """Let it take tasks again."""
    with api.connect() as client:
        started = client.post(agent.at(reference, "start"))
    api.printer.done(f"agent {reference} is {started['status']}", started)


@agent.verb("stop")
def stop(api: ApiOptions, reference: str) -> None:
    """Refuse new tasks for it; those that it has go on."""
    with api.connect() as client:
        stopped = client.post(agent.at(reference, "stop"))
    api.printer.done(f"agent {reference} is {stopped['status']}", stopped)


@agent.verb("versions", "--version 2")
def versions(
    api: ApiOptions,
    reference: str,
    version: Annotated[int | None, typer.Option(min=1, help="Show this one whole.")] = None,
) -> None:
    """List what it has been. Every change makes a version, and a task keeps the one that it was made with."""
    with api.connect() as client:
        if version is not None:
            api.printer.record(client.get(agent.at(reference, "versions", str(version))))
            return
        rows = list(client.rows(agent.at(reference, "versions")))
    columns = [field("version"), age("at", "age"), field("actor", "by"), field("profile", fit=Fit.CUT)]
    api.printer.rows(rows, columns, empty="no versions")
