"""The `warren` command."""

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from client.cli import api, connection, dead_letter, provider, secret, serve, task, up, worker
from client.cli.errors import exit_code, explain
from client.render import printable
from protocols.errors import WarrenError
from protocols.names import ExitCode

INTERRUPTED = 130
STDOUT = 1

app = typer.Typer(
    name="warren",
    help="Runs LLM calls and SSH commands on a fleet of approved worker machines.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)
app.command("up")(up.up)
app.command("serve")(serve.serve)
app.add_typer(task.app, name="task")
app.add_typer(dead_letter.app, name="dead-letter")
app.add_typer(worker.app, name="worker")
app.add_typer(provider.app, name="provider")
app.add_typer(connection.app, name="connection")
app.add_typer(secret.app, name="secret")
app.command("api")(api.call)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"warren {version('warren')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Runs LLM calls and SSH commands on a fleet of approved worker machines."""


def run() -> None:
    """Run the command with the process's arguments and exit with its status."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit status; whatever goes wrong becomes a line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to stop
    try:
        status = app(arguments, prog_name="warren", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # The reader has gone, such as `head` (typer makes that SystemExit): what is buffered has no place to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)
        return ExitCode.OK
    except WarrenError as error:
        return _fail(explain(error), exit_code(error))
    except typer.TyperException as error:
        return _misused(error)
    except Exception as error:
        return _defect(error)
    return status if isinstance(status, int) else ExitCode.OK


def _misused(error: typer.TyperException) -> int:
    message = error.format_message()
    if message.startswith("Usage:"):  # what a group of commands says when none is named
        typer.echo(message, err=True)
        return error.exit_code
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "warren"
    return _fail(f"error: {message}\nhint: `{command} --help` tells how", error.exit_code)


def _fail(text: str, status: int) -> int:
    typer.echo(printable(text), err=True)
    return status


def _defect(error: Exception) -> int:
    if os.environ.get("WARREN_DEBUG"):
        raise error
    return _fail(
        f"error: {type(error).__name__}: {error}\n"
        "hint: this is a defect in Warren; run it again with WARREN_DEBUG=1 and report what it prints",
        ExitCode.FAILED,
    )
