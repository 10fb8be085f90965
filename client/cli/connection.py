"""`warren connection`: hosts that SSH tasks run on."""

import shlex
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from client.cli.commands import group
from client.cli.errors import TaskEnded
from client.cli.noun import Noun
from client.cli.options import ApiOptions, given
from client.render import Fit, field
from protocols.names import ExitCode

ANSWER_S = 20.0
"""How long the control plane may hold back the answer to a command that is still running."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """What can be said about a host."""

    hostname: Annotated[str | None, typer.Option(help="Host name or address.")] = None
    username: Annotated[str | None, typer.Option("--username", "--user", "-u", help="Whom to log in as.")] = None
    secret: Annotated[str | None, typer.Option(help="The secret that holds the private key or password.")] = None
    host_keys: Annotated[
        list[str] | None,
        typer.Option(
            "--host-key",
            metavar="<str>",
            help="The fingerprint of the host's key, as `ssh-keygen -lf` prints it there; repeat it for more. "
            "Without one the first task is refused, and shows the key that the host has.",
        ),
    ] = None
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="22, if nothing is said.")] = None
    auth_method: Annotated[
        str | None, typer.Option("--auth", help="What the secret is: key or password; key, if nothing is said.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Changes(Form):
    """What can be changed."""

    name: Annotated[str | None, typer.Option(help="Another name.")] = None


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which worker logs in, and how long it may take."""

    timeout_s: Annotated[float | None, typer.Option("--timeout", min=0, help="Seconds that it may take.")] = None
    pool: Annotated[str | None, typer.Option(help="The pool of workers that may do it.")] = None
    worker: Annotated[str | None, typer.Option(help="The one worker that may do it.")] = None


NEW = "--hostname 192.0.2.10 --username deploy --secret deploy-key"
app = group("connection", f"warren connection create web-1 {NEW}\nwarren connection test web-1")
connection = Noun(
    app=app,
    name="connection",
    path="/ssh-connections",
    columns=[
        field("name"),
        field("hostname", fit=Fit.CUT),
        field("port"),
        field("username", "user"),
        field("auth_method", "auth"),
        field("secret"),
    ],
    empty="no connection yet: `warren connection create --help`",
    sample="web-1",
)
connection.lists()
connection.shows()
connection.creates(Form, NEW, required=["hostname", "username", "secret"])
connection.updates(Changes, "--host-key SHA256:…")
connection.deletes("Unfinished tasks that use it keep it from being deleted.")


@connection.verb("test")
def test(api: ApiOptions, reference: str, where: Where) -> None:
    """Let a worker log in; exits 3 if it cannot."""
    patience = (where.timeout_s or 30.0) + 30.0
    with api.connect(timeout_s=patience) as client:
        answer = client.post(connection.at(reference, "test"), given(where))
    if answer["ok"]:
        api.printer.done(f"connection {reference} works ({answer['duration_ms']} ms)", answer)
        return
    if api.printer.for_programs:
        api.printer.record(answer)
    raise TaskEnded(f"connection {reference} does not work: {_reason(answer)}", ExitCode.TASK_DEAD)


@connection.verb("execute", "-- uptime")
def execute(
    api: ApiOptions,
    reference: str,
    command: Annotated[list[str], typer.Argument(help="After --: the command, as words, or as one quoted shell line.")],
    where: Where,
) -> None:
    """Run a command and print what it prints. Exits 3 if it fails, as `warren task submit ssh --wait` does."""
    from client.cli.watch import raise_unless_succeeded, watch

    form = {"command": command_line(command), "wait_s": ANSWER_S, **given(where)}
    with api.connect(timeout_s=ANSWER_S + 30.0) as client:
        answer = client.post(connection.at(reference, "execute"), form)
        task = answer["task"]
        if answer.get("exit_status") is None and task["finished_at"] is None:
            watch(client, api.printer, str(task["id"]))
            return
    if api.printer.for_programs:
        api.printer.record(answer)
    else:
        sys.stdout.write(answer["stdout"] or "")
        sys.stdout.flush()
        sys.stderr.write(answer["stderr"] or "")
        if answer.get("truncated"):
            api.printer.remark(f"[there is more: warren task output {task['id']}]")
    raise_unless_succeeded(task)


def command_line(words: list[str]) -> str:
    """Return the line for the remote shell: as with ssh itself, one word is that line, several are its arguments."""
    return words[0] if len(words) == 1 else shlex.join(words)


def _reason(answer: dict[str, Any]) -> str:
    error = answer.get("error")
    if isinstance(error, dict):
        return str(error.get("message") or error.get("code"))
    return str(error or answer.get("state"))
