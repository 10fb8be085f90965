"""`warren file`: what tasks take and leave."""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from client.cli.commands import group
from client.cli.noun import Noun, verb
from client.cli.options import ApiOptions
from client.render import Fit, age, field
from protocols.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which files to list."""

    task_id: Annotated[str | None, typer.Option("--task", help="Only those of this task.")] = None


app = group("file", "warren file upload report.pdf --task task_0197\nwarren file download file_0197")
file = Noun(
    app=app,
    name="file",
    path="/files",
    columns=[
        field("id"),
        field("name", fit=Fit.CUT),
        field("size_bytes", "bytes"),
        field("content_type", "type", Fit.SPARE),
        age("created_at", "age"),
        field("task_id", "task", Fit.SPARE),
    ],
    empty="no files; upload one: `warren file upload --help`",
    sample="file_0197",
    by="The file's id.",
    named=False,
)
file.lists(Filters, "--task task_0197")
file.shows()


@verb(app, "upload", "warren file upload report.pdf --task task_0197", also=("create", "add"))
def upload(
    api: ApiOptions,
    source: Annotated[Path, typer.Argument(help="The file to send.")],
    task: Annotated[str | None, typer.Option(help="The task that it belongs to.")] = None,
    name: Annotated[str | None, typer.Option(help="Another name for it.")] = None,
    content_type: Annotated[str | None, typer.Option(help="Its media type; guessed from its name by default.")] = None,
) -> None:
    """Send a file and print its id."""
    from client.sdk.files import Files

    with api.connect() as client:
        sent = Files(client).upload(source.expanduser(), name=name, content_type=content_type, task_id=task)
    api.printer.done(sent.id, sent.raw)


@file.verb("download", "--to report.pdf")
def download(
    api: ApiOptions,
    reference: str,
    to: Annotated[
        Path | None, typer.Option(help="Where to put it; - for stdout. In this directory, by its name, by default.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Fetch a file; what arrives is proven by its SHA-256."""
    from client.sdk.files import Files

    with api.connect() as client:
        files = Files(client)
        if to == Path("-"):
            with TemporaryDirectory() as directory:
                whole = Path(directory) / "whole"
                files.download(reference, whole)
                with whole.open("rb") as content:
                    shutil.copyfileobj(content, sys.stdout.buffer)
            return
        # Its name comes from somebody else: it decides on no directory.
        target = to.expanduser() if to else Path(Path(files.get(reference).name).name)
        if target.exists() and not force:
            raise InvalidInput(
                f"{target} is there already", hint="add --force to replace it, or name another with --to"
            )
        fetched = files.download(reference, target)
    api.printer.done(f"{target} ({fetched.size_bytes:,} bytes)", fetched.raw)


@file.verb("url")
def url(api: ApiOptions, reference: str) -> None:
    """Print a URL that needs no key. It gives the file to whoever has it, until it expires."""
    with api.connect() as client:
        found = client.get(file.at(reference, "url"))
    api.printer.done(str(found["url"]), found)
    api.printer.remark(f"valid until {found['expires_at']}")


file.deletes()
