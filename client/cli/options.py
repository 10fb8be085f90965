"""Options that many commands share, declared once as the fields of a dataclass.

A command names such a dataclass as a parameter; `expanded` turns each of its fields into an option.
"""

import dataclasses
import functools
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from client.render import Output, Printer
from protocols.errors import InvalidInput

if TYPE_CHECKING:
    from client.http import ApiClient


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApiOptions:
    """Which control plane to talk to, and how to print what it says."""

    url: Annotated[str | None, typer.Option(help="The control plane's URL.  [env: WARREN_URL]", show_default=False)] = (
        None
    )
    key_file: Annotated[
        Path | None, typer.Option(help="A file with the API key.  [env: WARREN_API_KEY holds the key itself]")
    ] = None
    data_dir: Annotated[
        Path | None, typer.Option(help="A local control plane's data directory.  [env: WARREN_DATA_DIR]")
    ] = None
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print data.")] = Output.TABLE

    @property
    def printer(self) -> Printer:
        """Prints in the form asked for."""
        return Printer(self.output)

    def connect(self) -> "ApiClient":
        """Return a client of the control plane; raises WarrenError if none or no key is known."""
        from client.http import ApiClient
        from client.profile import resolve_profile

        profile = resolve_profile(self.url, self.key_file, self.data_dir)
        return ApiClient(profile.url, profile.key)


def expanded(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with every dataclass parameter replaced by options, one for each of its fields."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    shared: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        annotation = hints[parameter.name]
        if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            groups[parameter.name] = annotation
            shared += _options(annotation)
        else:
            parameters.append(parameter.replace(annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        command(**values)

    signature = inspect.Signature(parameters + shared)
    vars(run)["__signature__"] = signature
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return run


def _options(group: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
        )
        for field in dataclasses.fields(group)
    ]


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone; raises InvalidInput where nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInput("this cannot be undone, and there is no terminal to ask on", hint="add --yes if you mean it")
    typer.confirm(question, abort=True, err=True)
