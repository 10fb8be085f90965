"""`warren docs`: where the API is described."""

from typing import Annotated

import typer

from client.cli.commands import alone
from client.cli.options import ApiOptions, expanded


@expanded
def docs(
    api: ApiOptions,
    open_: Annotated[bool, typer.Option("--open", help="Open it in the browser, too.")] = False,
) -> None:
    """Print where the API's documentation is. It asks for a key unless the setting api.public_docs is on."""
    url = f"{api.resolved_url()}/docs"
    api.printer.done(url, {"url": url})
    if open_:
        typer.launch(url)


app = alone(docs, "warren docs --open")
