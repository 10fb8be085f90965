"""`warren provider`: where LLM calls go."""

from dataclasses import dataclass
from typing import Annotated

import typer

from client.cli.commands import group
from client.cli.noun import Noun
from client.render import Fit, field


@dataclass(frozen=True, kw_only=True)
class Form:
    """What can be said about a provider."""

    base_url: Annotated[str | None, typer.Option(help="Its API's base, such as https://api.openai.com/v1.")] = None
    kind: Annotated[str | None, typer.Option(help="The protocol it speaks; openai, if nothing is said.")] = None
    secret: Annotated[str | None, typer.Option(help="The secret that holds its API key.")] = None
    models: Annotated[
        list[str] | None, typer.Option("--model", metavar="<str>", help="A model that it has; repeat it for more.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Changes(Form):
    """What can be changed."""

    name: Annotated[str | None, typer.Option(help="Another name.")] = None


app = group("provider", "warren provider create openai --base-url https://api.openai.com/v1 --secret openai-key")
provider = Noun(
    app=app,
    name="provider",
    path="/providers",
    columns=[field("name"), field("kind"), field("base_url", fit=Fit.CUT), field("secret")],
    empty="no provider yet: `warren provider create --help`",
    sample="openai",
)
provider.lists()
provider.shows()
provider.creates(Form, "--base-url https://api.openai.com/v1 --secret openai-key", required=["base_url"])
provider.updates(Changes, "--secret newer-key")
provider.deletes("Unfinished tasks that use it keep it from being deleted.")
