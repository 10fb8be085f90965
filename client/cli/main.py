"""The `warren` command."""

import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from client.cli.commands import COMPLETE, Commands, epilog
from client.cli.errors import exit_code, explain
from client.render import printable
from protocols.errors import WarrenError
from protocols.names import ExitCode

INTERRUPTED = 130
STDOUT = 1

app = typer.Typer(
    name="warren",
    cls=Commands,
    help="Runs LLM calls and SSH commands on a fleet of approved worker machines.",
    epilog=epilog("warren up\nwarren task submit llm -p openai -m gpt-5-mini --wait 'Why do rabbits dig?'"),
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)


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
    if COMPLETE in os.environ:
        return _complete()
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


def _complete() -> int:
    from typer._completion_classes import completion_init  # what `add_completion` does, without its two options

    completion_init()
    try:
        app([], prog_name="warren")
    except SystemExit as ended:
        return int(ended.code or 0)
    except Exception:
        return ExitCode.FAILED  # in the middle of a command line nobody wants to hear about it
    return ExitCode.OK


def _misused(error: typer.TyperException) -> int:
    message = error.format_message().replace("Value error, ", "")  # pydantic's own words
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
