"""How the verbs of a noun are declared, and those that are alike for every noun."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from client.cli.commands import epilog
from client.cli.complete import names
from client.cli.options import DEFAULT_LIMIT, PAGE, ApiOptions, Limit, Yes, changes, confirm, expanded, given
from client.render import Column
from protocols.errors import InvalidInput

NewName = Annotated[str, typer.Argument(help="A new name: lower case letters, digits, hyphens.")]
Command = Callable[..., None]


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Filters of a list that has none."""


def verb(
    app: typer.Typer,
    name: str,
    example: str,
    *,
    also: Sequence[str] = (),
    types: Mapping[str, Any] | None = None,
    required: Sequence[str] = (),
) -> Callable[[Command], Command]:
    """Declare a verb; `also` are other words for it, which help does not show. For the rest see `expanded`."""

    def register(command: Command) -> Command:
        run = expanded(command, types=types, required=required)
        app.command(name, epilog=epilog(example))(run)
        for word in also:
            app.command(word, epilog=epilog(example), hidden=True)(run)
        return command

    return register


@dataclass(frozen=True, kw_only=True)
class Noun:
    """Things of one kind: where the API keeps them, how a list shows them, and the verbs that all kinds have."""

    app: typer.Typer
    name: str
    """What it is called, which is also its command."""
    path: str
    columns: Sequence[Column]
    empty: str
    """What a list without any says."""
    sample: str
    """How one may be called, for examples."""
    many: str = ""
    article: str = "a"
    by: str = "Name or id."
    named: bool = True
    """Whether people give them names, which the shell can complete."""

    @property
    def reference(self) -> Any:
        """The type of the argument that says which one."""
        complete = names(self.path) if self.named else None
        return Annotated[str, typer.Argument(help=self.by, autocompletion=complete)]

    def verb(self, name: str, rest: str = "", **more: Any) -> Callable[[Command], Command]:
        """Declare a verb that is about one of them: its parameter `reference` says which."""
        example = f"warren {self.name} {name} {self.sample} {rest}".rstrip()
        return verb(self.app, name, example, types={"reference": self.reference}, **more)

    def lists(self, filters: type[Any] = NoOptions, example: str = "") -> None:
        """Declare `list`."""

        def list_(api: ApiOptions, filters: Any, limit: Limit = DEFAULT_LIMIT) -> None:
            query = {**given(filters), "limit": min(limit + 1, PAGE)}
            with api.connect() as client:
                rows = api.first(client.rows(self.path, query), limit)
            api.printer.rows(rows, self.columns, empty=self.empty)

        list_.__doc__ = f"List {self.many or self.name + 's'}."
        verb(self.app, "list", f"warren {self.name} list {example}".rstrip(), types={"filters": filters})(list_)

    def shows(self) -> None:
        """Declare `show`."""

        def show(api: ApiOptions, reference: str) -> None:
            with api.connect() as client:
                api.printer.record(client.get(self.at(reference)))

        show.__doc__ = f"Show {self.article} {self.name} with all that is known about it."
        self.verb("show")(show)

    def creates(self, form: type[Any], rest: str, required: Sequence[str] = ()) -> None:
        """Declare `create`, of a form whose `required` fields are options that have to be given."""

        def create(api: ApiOptions, name: NewName, form: Any) -> None:
            with api.connect() as client:
                created = client.post(self.path, {"name": name, **given(form)})
            api.printer.done(f"{self.name} {name} created", created)

        create.__doc__ = f"Create {self.article} {self.name}."
        example = f"warren {self.name} create {self.sample} {rest}"
        verb(self.app, "create", example, also=("add",), types={"form": form}, required=required)(create)

    def updates(self, form: type[Any], rest: str) -> None:
        """Declare `update`, of a form without required fields."""

        def update(api: ApiOptions, reference: str, form: Any) -> None:
            with api.connect() as client:
                updated = client.patch(self.at(reference), changes(form))
            api.printer.done(f"{self.name} {reference} updated", updated)

        update.__doc__ = f"Change {self.article} {self.name}. What is not named stays, and '' takes a value away."
        example = f"warren {self.name} update {self.sample} {rest}"
        types = {"reference": self.reference, "form": form}
        verb(self.app, "update", example, also=("set",), types=types)(update)

    def deletes(self, note: str = "") -> None:
        """Declare `delete`."""

        def delete(api: ApiOptions, reference: str, yes: Yes = False) -> None:
            confirm(f"Delete {self.name} {reference}?", yes=yes)
            with api.connect() as client:
                client.delete(self.at(reference))
            api.printer.done(f"{self.name} {reference} deleted", {"deleted": reference})

        delete.__doc__ = f"Delete {self.article} {self.name}. {note}".rstrip()
        self.verb("delete", "--yes", also=("rm",))(delete)

    def at(self, reference: str, *more: str) -> str:
        """Return the path of one of them, or of something of it."""
        from client.http import path_to

        if not reference:
            raise InvalidInput(f"say which {self.name}", hint=self.by)
        return self.path + path_to(reference, *more)
