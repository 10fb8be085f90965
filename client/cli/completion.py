"""`warren completion`: what makes a shell complete commands."""

from enum import StrEnum
from typing import Annotated

import typer

from client.cli.commands import COMPLETE, alone


class Shell(StrEnum):
    """Shells that can."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(help="Your shell.")]) -> None:
    """Print the script that makes a shell complete commands.

    It completes options too, and names of workers, hosts and so on, which it asks the control plane for. Put the
    example for your shell into ~/.bashrc or ~/.zshrc; fish reads the file by itself.
    """
    from typer._completion_shared import get_completion_script

    typer.echo(get_completion_script(prog_name="warren", complete_var=COMPLETE, shell=shell))


app = alone(
    completion,
    'eval "$(warren completion bash)"\n'
    'eval "$(warren completion zsh)"\n'
    "warren completion fish > ~/.config/fish/completions/warren.fish",
)
