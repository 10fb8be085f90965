"""Options that many commands share, declared once as the fields of a dataclass.

A command names such a dataclass as a parameter; `expanded` turns each of its fields into an option.
"""

import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from client.cli.complete import profiles
from client.render import Output, Printer
from protocols.errors import InvalidInput

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from client.http import ApiClient

DEFAULT_LIMIT = 50
PAGE = 200
_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApiOptions:
    """How to print what the control plane says, and which control plane to ask."""

    output: Annotated[Output, typer.Option("--output", "-o", help="How to print data.")] = Output.TABLE
    url: Annotated[str | None, typer.Option(help="The control plane's URL.  [env: WARREN_URL]", show_default=False)] = (
        None
    )
    key_file: Annotated[
        Path | None, typer.Option(help="A file with the API key.  [env: WARREN_API_KEY holds the key itself]")
    ] = None
    profile: Annotated[
        str | None, typer.Option(help="A profile of `warren login`.  [env: WARREN_PROFILE]", autocompletion=profiles)
    ] = None
    data_dir: Annotated[
        Path | None, typer.Option(help="A local control plane's data directory.  [env: WARREN_DATA_DIR]")
    ] = None

    @property
    def printer(self) -> Printer:
        """Prints in the form asked for."""
        return Printer(self.output)

    def connect(self, *, timeout_s: float = 30.0) -> "ApiClient":
        """Return a client of the control plane; raises WarrenError if none or no key is known."""
        from client.http import ApiClient
        from client.profile import resolve_profile

        found = resolve_profile(self.url, self.key_file, self.data_dir, profile=self.profile)
        return ApiClient(found.url, found.key, timeout_s=timeout_s)

    def resolved_url(self) -> str:
        """Return where the control plane is; raises WarrenError if none is known."""
        from client.profile import resolve_url

        return resolve_url(self.url, self.data_dir, profile=self.profile)

    def first(self, rows: Iterator[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
        """Return the first rows of a list, and say so if there are more."""
        found = list(islice(rows, limit + 1))
        if len(found) > limit:
            self.printer.remark(f"there are more than {limit}: --limit shows them")
        return found[:limit]


Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Limit = Annotated[int, typer.Option("--limit", "-n", min=1, help="At most this many.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the record.")]
PriorityName = Literal["low", "normal", "high", "critical"]


def past(value: str | None) -> str | None:
    """Return a time as RFC 3339, given as such or as how long ago it was, such as `2h`; for an option's callback."""
    ago = _AGO.fullmatch(value or "")
    if ago is None:
        return value
    return (datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})).isoformat(timespec="milliseconds")


def given(options: "DataclassInstance") -> dict[str, Any]:
    """Return the options that were given, as the fields of a form or of a query."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {name: value for name, value in values.items() if value is not None}


def changes(options: "DataclassInstance") -> dict[str, Any]:
    """Return the options that were given, as changes: an empty text takes a value away.

    Raises InvalidInput if there are none.
    """
    found = {name: _emptied(value) for name, value in given(options).items()}
    if not found:
        raise InvalidInput("say what to change", hint="each option of --help is something that can be")
    return found


def _emptied(value: Any) -> Any:
    if value == "":
        return None
    return [] if value == [""] else value


def expanded(
    command: Callable[..., None], *, types: Mapping[str, Any] | None = None, required: Container[str] = ()
) -> Callable[..., None]:
    """Return `command` with every dataclass parameter replaced by options, one for each of its fields.

    `types` are parameters' types that are known only when the program runs; `required` are fields that have to be
    given whatever their defaults say. What all commands have in common comes last.
    """
    hints = get_type_hints(command, include_extras=True) | dict(types or {})
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    common: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        annotation = hints[parameter.name]
        if annotation is ApiOptions:
            groups[parameter.name] = annotation
            common = _options(annotation, required)
        elif dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            groups[parameter.name] = annotation
            parameters += _options(annotation, required)
        else:
            parameters.append(parameter.replace(annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in dataclasses.fields(group)})
        command(**values)

    signature = inspect.Signature(parameters + common)
    vars(run)["__signature__"] = signature
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return run


def _options(group: type[Any], required: Container[str]) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.name in required else field.default,
            annotation=hints[field.name],
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
