"""`warren task submit`: one task by its kind, or many from a file."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from client.cli.commands import Group, epilog
from client.cli.complete import names
from client.cli.connection import command_line
from client.cli.noun import verb
from client.cli.options import ApiOptions, PriorityName, expanded, given
from client.render import counted
from protocols.errors import InvalidInput
from protocols.names import BuiltinAction
from protocols.states import Delivery, TaskState

if TYPE_CHECKING:
    from client.http import ApiClient

EXAMPLES = """\
warren task submit llm -p openai -m gpt-5-mini --wait 'Why do rabbits dig?'
warren task submit ssh web-1 --wait -- uptime
warren task submit python resize --arg '"a.png"' --input '{"width": 80}'
warren task submit --file tasks.yaml"""
app = typer.Typer(cls=Group, rich_markup_mode=None, add_completion=False)
Wait = Annotated[
    bool, typer.Option("--wait", help="Print its output as it arises, and exit as `warren task watch` does.")
]


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What can be said about a task of any kind."""

    priority: Annotated[PriorityName | None, typer.Option(help="How soon, against others of its queue.")] = None
    delivery: Annotated[
        Delivery | None, typer.Option(help="What to do when its worker is lost: perhaps again, or never again.")
    ] = None
    max_attempts: Annotated[int | None, typer.Option(min=1, max=100, help="How often it may fail.")] = None
    timeout_s: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds that one attempt may take.")] = (
        None
    )
    delay_s: Annotated[
        float | None, typer.Option("--delay", min=0, help="Seconds to wait before the first attempt.")
    ] = None
    deadline: Annotated[str | None, typer.Option(help="When it is too late, such as 2030-01-31T12:00:00Z.")] = None
    pool: Annotated[str | None, typer.Option(help="The pool of workers that may run it.")] = None
    worker: Annotated[
        str | None, typer.Option(help="The one worker that may run it.", autocompletion=names("/workers"))
    ] = None
    title: Annotated[str | None, typer.Option(help="A few words for people.")] = None


@app.callback(invoke_without_command=True, epilog=epilog(EXAMPLES))
@expanded
def submit(
    context: typer.Context,
    api: ApiOptions,
    file: Annotated[
        str | None,
        typer.Option(
            "--file", "-f", help="Task forms as JSON, YAML or one JSON object a line, by its suffix; - for stdin."
        ),
    ] = None,
) -> None:
    """Submit a task, or many from a file."""
    if context.invoked_subcommand is None:
        if file is None:
            raise InvalidInput("say what to submit", hint="`warren task submit --help` lists what there is")
        _submit_file(api, file)
    elif file is not None:
        raise InvalidInput("--file and a kind of task exclude each other")


@verb(app, "llm", "warren task submit llm -p openai -m gpt-5-mini --wait 'Why do rabbits dig?'")
def llm(
    api: ApiOptions,
    task: TaskOptions,
    text: Annotated[str, typer.Argument(help="What to say to the model; - for stdin.")],
    provider: Annotated[
        str, typer.Option("--provider", "-p", help="The provider's name.", autocompletion=names("/providers"))
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="The provider's name for the model.")],
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="At most this many tokens of answer.")] = None,
    wait: Wait = False,
) -> None:
    """Ask a model."""
    said = {"prompt": _text(text), "system": system, "max_tokens": max_tokens}
    chat = {"model": model} | {name: value for name, value in said.items() if value is not None}
    _submit(api, task, {"action": BuiltinAction.LLM_CHAT, "provider": provider, "input": chat}, wait=wait)


@verb(app, "ssh", "warren task submit ssh web-1 --wait -- uptime")
def ssh(
    api: ApiOptions,
    task: TaskOptions,
    connection: Annotated[str, typer.Argument(help="The connection's name.", autocompletion=names("/ssh-connections"))],
    command: Annotated[list[str], typer.Argument(help="After --: the command, as words, or as one quoted shell line.")],
    wait: Wait = False,
) -> None:
    """Run a command on a host."""
    form = {"action": BuiltinAction.SSH_EXEC, "connection": connection, "input": {"command": command_line(command)}}
    _submit(api, task, form, wait=wait)


@verb(app, "python", "warren task submit python resize --arg '\"a.png\"' --input '{\"width\": 80}'")
def python(
    api: ApiOptions,
    task: TaskOptions,
    action: Annotated[str, typer.Argument(help="The name of a function that workers have installed.")],
    arg: Annotated[
        list[str] | None, typer.Option(metavar="<str>", help="An argument as JSON; repeat it for more.")
    ] = None,
    input_: Annotated[str | None, typer.Option("--input", help="Keyword arguments as a JSON object.")] = None,
    wait: Wait = False,
) -> None:
    """Call a Python function."""
    keywords = _json(input_, "--input") if input_ else {}
    if not isinstance(keywords, dict):
        raise InvalidInput("--input must be a JSON object", hint="""such as --input '{"name": "value"}'""")
    form = {"action": action, "args": [_json(text, "--arg") for text in arg or []], "input": keywords}
    _submit(api, task, form, wait=wait)


@verb(app, "agent", "warren task submit agent writer --wait 'Write a haiku about queues.'")
def agent(
    api: ApiOptions,
    task: TaskOptions,
    agent: Annotated[str, typer.Argument(help="The agent's name.", autocompletion=names("/agents"))],
    instructions: Annotated[str, typer.Argument(help="What it shall do; - for stdin.")],
    tool: Annotated[
        list[str] | None,
        typer.Option(metavar="<str>", help="A tool that it needs and must be allowed; repeat it for more."),
    ] = None,
    wait: Wait = False,
) -> None:
    """Give work to an agent."""
    form: dict[str, Any] = {"agent_id": agent, "instructions": _text(instructions)}
    _submit(api, task, form | ({"required_tools": tool} if tool else {}), wait=wait)


def follow_or_tell(api: ApiOptions, client: "ApiClient", task: dict[str, Any], *, wait: bool) -> None:
    """Follow a task that lives again to its end, or say that it does."""
    if wait:
        from client.cli.watch import watch

        begun = task["attempt"] if task["state"] == TaskState.SCHEDULED else task["attempt"] - 1
        watch(client, api.printer, str(task["id"]), after_attempt=begun)
    else:
        api.printer.done(f"task {task['id']} is {task['state']} again", task)


def _submit(api: ApiOptions, options: TaskOptions, form: dict[str, Any], *, wait: bool) -> None:
    with api.connect() as client:
        task = client.create("/tasks", {**form, **given(options)})
        if wait:
            from client.cli.watch import watch

            watch(client, api.printer, str(task["id"]))
        else:
            api.printer.done(str(task["id"]), task)


def _submit_file(api: ApiOptions, name: str) -> None:
    from client.bulk import read_forms, submit_all

    with api.connect() as client, read_forms(None if name == "-" else Path(name)) as forms:
        ids = submit_all(client, forms)
    api.printer.done(f"{counted(len(ids), 'task')} submitted", [{"id": task_id} for task_id in ids])


def _text(argument: str) -> str:
    return sys.stdin.read() if argument == "-" else argument


def _json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(
            f"{option} {text[:80]!r} is no JSON: {error}", hint=f"""a text needs its quotes: {option} '"text"'"""
        ) from error
