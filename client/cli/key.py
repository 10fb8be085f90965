"""`warren key`: API keys of this control plane."""

from typing import Annotated

import typer

from client.cli.commands import group
from client.cli.noun import Noun, verb
from client.cli.options import ApiOptions
from client.render import age, field
from protocols.states import Role

app = group("key", "warren key create ci --role operator > ci.key")
key = Noun(
    app=app,
    name="key",
    path="/security/api-keys",
    columns=[field("name"), field("role"), age("created_at", "age"), age("revoked_at", "revoked"), field("id")],
    empty="no keys",
    sample="key_01973cf0a6b07c3d8f0e2a4b6c8d9e1f",
    many="keys, also those that were revoked",
    by="The key's id.",
    named=False,
)
key.lists()


@verb(app, "create", "warren key create ci --role operator > ci.key", also=("add",))
def create(
    api: ApiOptions,
    name: Annotated[str, typer.Argument(help="Whose key it is, in a few words.")],
    role: Annotated[Role, typer.Option(help="What it may do; each but worker includes the one before.")],
) -> None:
    """Create a key and print it, this once. The control plane keeps only its hash."""
    with api.connect() as client:
        created = client.post("/security/api-keys", {"name": name, "role": role})
    api.printer.done(str(created["key"]), created)
    api.printer.remark(f"key {name} created; this is the only time that it is shown")


key.deletes("Whoever uses it is refused from now on.")
