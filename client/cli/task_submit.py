"""`warren task submit`: one task by its kind, or many from a file."""

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from client.cli.options import ApiOptions, expanded
from client.render import Output
from protocols.errors import InvalidInput
from protocols.names import BuiltinAction

app = typer.Typer(help="Submit a task, or many from a file.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What can be said about a task of any kind."""

    priority: Annotated[str | None, typer.Option(help="low, normal, high or critical.")] = None
    max_attempts: Annotated[int | None, typer.Option(min=1, max=100, help="How often it may fail.")] = None
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds that one attempt may take.")] = None
    delay: Annotated[float | None, typer.Option(min=0, help="Seconds to wait before the first attempt.")] = None
    pool: Annotated[str | None, typer.Option(help="The pool of workers that may run it.")] = None
    worker: Annotated[str | None, typer.Option(help="The one worker that may run it.")] = None
    title: Annotated[str | None, typer.Option(help="A few words for people.")] = None
    wait: Annotated[
        bool, typer.Option("--wait", help="Print its output as it arises; exit 3 if it dies, 4 if cancelled.")
    ] = False

    def form(self) -> dict[str, Any]:
        """Return the task form's fields for what was given."""
        fields = {
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "timeout_s": self.timeout,
            "delay_s": self.delay,
            "pool": self.pool,
            "worker": self.worker,
            "title": self.title,
        }
        return {name: value for name, value in fields.items() if value is not None}


@app.callback(invoke_without_command=True)
@expanded
def submit(
    context: typer.Context,
    api: ApiOptions,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="Task forms, as JSON or one JSON object a line; - for stdin.")
    ] = None,
) -> None:
    """Submit a task, or many from a file."""
    if context.invoked_subcommand is None:
        if file is None:
            raise InvalidInput("say what to submit", hint="`warren task submit --help` lists what there is")
        _submit_file(api, file)
    elif file is not None:
        raise InvalidInput("--file and a kind of task exclude each other")


@app.command("llm")
@expanded
def llm(
    api: ApiOptions,
    task: TaskOptions,
    text: Annotated[str, typer.Argument(help="What to say to the model; - for stdin.")],
    provider: Annotated[str, typer.Option("--provider", "-p", help="The provider's name.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The provider's name for the model.")],
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="At most this many tokens of answer.")] = None,
) -> None:
    """Ask a model."""
    said = {"prompt": sys.stdin.read() if text == "-" else text, "system": system, "max_tokens": max_tokens}
    chat = {"model": model} | {name: value for name, value in said.items() if value is not None}
    _submit(api, task, {"action": BuiltinAction.LLM_CHAT, "provider": provider, "input": chat})


@app.command("ssh")
@expanded
def ssh(
    api: ApiOptions,
    task: TaskOptions,
    connection: Annotated[str, typer.Argument(help="The connection's name.")],
    command: Annotated[list[str], typer.Argument(help="After --: the command, as words, or as one quoted shell line.")],
) -> None:
    """Run a command on a host."""
    # As with ssh itself, one word is a line for the remote shell; several are exactly these arguments.
    line = command[0] if len(command) == 1 else shlex.join(command)
    _submit(api, task, {"action": BuiltinAction.SSH_EXEC, "connection": connection, "input": {"command": line}})


@app.command("python")
@expanded
def python(
    api: ApiOptions,
    task: TaskOptions,
    action: Annotated[str, typer.Argument(help="The name of a function that workers have installed.")],
    arg: Annotated[list[str] | None, typer.Option(help="An argument as JSON; repeat it for more.")] = None,
    input_: Annotated[str | None, typer.Option("--input", help="Keyword arguments as a JSON object.")] = None,
) -> None:
    """Call a Python function."""
    keywords = _json(input_, "--input") if input_ else {}
    if not isinstance(keywords, dict):
        raise InvalidInput("--input must be a JSON object", hint="""such as --input '{"name": "value"}'""")
    _submit(api, task, {"action": action, "args": [_json(text, "--arg") for text in arg or []], "input": keywords})


def _submit(api: ApiOptions, options: TaskOptions, form: dict[str, Any]) -> None:
    with api.connect() as client:
        task = client.create("/tasks", {**form, **options.form()})
        if options.wait:
            from client.cli.watch import watch

            watch(client, api.printer, str(task["id"]))
        else:
            api.printer.done(str(task["id"]), task)


def _submit_file(api: ApiOptions, name: str) -> None:
    from client.bulk import read_forms, submit_all

    with api.connect() as client:
        ids = submit_all(client, read_forms(None if name == "-" else Path(name)))
    if api.output is Output.JSON:
        api.printer.rows([{"id": task_id} for task_id in ids], [], empty="")
    else:
        api.printer.done(f"{len(ids):,} tasks submitted", None)


def _json(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInput(
            f"{option} {text[:80]!r} is no JSON: {error}", hint=f"""a text needs its quotes: {option} '"text"'"""
        ) from error
