"""`warren doctor`: what is wrong, and what to change."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.commands import alone
from client.cli.options import ApiOptions, expanded
from client.render import printable, show, style
from protocols.errors import WarrenError
from protocols.names import ExitCode

if TYPE_CHECKING:
    from client.doctor import Check


@expanded
def doctor(
    api: ApiOptions,
    tasks: Annotated[
        bool, typer.Option("--tasks", help="Prove over the whole database that every unfinished task has an owner.")
    ] = False,
) -> None:
    """Check what can be wrong; say what to change.

    It looks at settings, permissions, versions, clock, disk, workers, queues and dead letters.
    Exits with 1 if something has failed; warnings do not count.
    """
    from client.doctor import Verdict

    found = list(_tasks(api) if tasks else _everything(api))
    if api.printer.for_programs:
        api.printer.data([check.row() for check in found])
    else:
        _tell(found)
    if any(check.verdict is Verdict.FAILED for check in found):
        raise typer.Exit(ExitCode.FAILED)


def _tasks(api: ApiOptions) -> "Iterator[Check]":
    from client.doctor import examine_tasks

    with api.connect() as client:
        yield from examine_tasks(client)


def _everything(api: ApiOptions) -> "Iterator[Check]":
    from client.doctor import Check, Verdict, examine_control_plane, examine_machine
    from client.profile import resolve_data_dir

    yield from examine_machine(resolve_data_dir(api.data_dir))
    try:
        client = api.connect()
    except WarrenError as error:
        yield Check("control plane", Verdict.FAILED, error.message, error.hint or "")
        return
    with client:
        yield from examine_control_plane(client)


def _tell(checks: "Sequence[Check]") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(Text(check.verdict, style=style(check.verdict)), check.name, printable(check.detail))
        if check.advice:
            table.add_row("", "", Text(f"→ {printable(check.advice)}", style="bold"))
    show(table)


app = alone(doctor, "warren doctor\nwarren doctor --tasks --output json")
