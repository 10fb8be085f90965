"""The list of commands, and how one is declared.

Each is imported when it is named, so that `warren --help` and the shell's tab key are fast.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

COMPLETE = "_WARREN_COMPLETE"
"""The variable by which a shell asks what may follow."""
COMMANDS = {
    "up": "Run everything here: a control plane, workers, a tour.",
    "serve": "Run the control plane.",
    "task": "Tasks: submit, follow, cancel.",
    "dead-letter": "Dead letters: tasks that failed for good.",
    "queue": "Queues: what waits where; pause and resume.",
    "worker": "Workers: run one here, look at the fleet, approve.",
    "agent": "Agents: profiles that tasks can be given to.",
    "provider": "LLM providers: where calls go, and with which secret.",
    "connection": "SSH connections: hosts that commands run on.",
    "secret": "Secrets: API keys, private keys, passwords.",
    "file": "Files: what tasks take and leave.",
    "key": "API keys: who else may come in.",
    "setting": "Settings that change while the control plane runs.",
    "audit": "The audit log: who changed what.",
    "login": "Log in to a control plane, and remember it.",
    "logout": "Forget the key of a profile.",
    "whoami": "Show whom the control plane takes you for.",
    "profile": "Profiles: the control planes that you have logged in to.",
    "docs": "Print where the API's documentation is.",
    "top": "Watch queues, workers and rates.",
    "doctor": "Check what can be wrong; say what to change.",
    "api": "Send a request to the API and print the answer.",
    "completion": "Print the script that makes a shell complete commands.",
}
"""Each command and what it is for; its module has the same name, and says the same."""


class Group(TyperGroup):
    """A group of commands."""

    def get_help_option(self, ctx: Any) -> Any:
        """Return `--help`, which is off if it is not given: otherwise it takes pydantic, and its time, to find out."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.default = False
        return option


class Commands(Group):
    """All of them, of which only the one that is run is more than its line in the list."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name, purpose in COMMANDS.items():
            self.add_command(TyperCommand(name, help=purpose, rich_markup_mode=None))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that the arguments name, imported; and the other arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name and command else None, rest


def load(name: str) -> Any:
    """Return a command of the list as the library that runs it wants it."""
    app: typer.Typer = import_module(f"client.cli.{name.replace('-', '_')}").app
    # Left to itself, the library takes a group with one command for that command.
    command = typer.main.get_group(app) if app.info.cls is Group else typer.main.get_command(app)
    command.name = name
    return command


def group(name: str, example: str) -> typer.Typer:
    """Return the command `name` of the list as a group of commands."""
    return typer.Typer(
        cls=Group,
        help=COMMANDS[name],
        epilog=epilog(example),
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=False,
    )


def alone(command: Callable[..., None], example: str) -> typer.Typer:
    """Return a command of the list that is no group."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(epilog=epilog(example))(command)
    return app


def epilog(example: str) -> str:
    """Return the end of a command's help: what to type, a line each."""
    lines = example.splitlines()
    return "\n".join(["\b", "Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])
