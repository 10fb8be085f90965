"""Values that must not show: they come from a file, from stdin or from a prompt, never from the command line."""

import sys
from pathlib import Path

import typer

from protocols.errors import InvalidInput

MAX_CHARACTERS = 64 * 1024


def read_hidden(source: Path | None, prompt: str, option: str = "--from-file") -> str:
    """Return a value from a file, stdin or a hidden prompt; raises InvalidInput if there is none."""
    if source is None and sys.stdin.isatty():
        value = str(typer.prompt(prompt, hide_input=True, err=True))
    elif source is None or str(source) == "-":
        value = sys.stdin.read(MAX_CHARACTERS + 1)
    else:
        value = _read(source)
    if len(value) > MAX_CHARACTERS:
        raise InvalidInput(f"the value is longer than {MAX_CHARACTERS:,} characters")
    # A private key needs its last newline; an API key or password never has one.
    value = value if "\n" in value.strip() else value.strip()
    if not value:
        raise InvalidInput("the value is empty", hint=f"name a file with {option}, or pipe it in")
    return value


def _read(source: Path) -> str:
    try:
        with source.expanduser().open(encoding="utf-8") as file:
            return file.read(MAX_CHARACTERS + 1)
    except OSError as error:
        raise InvalidInput(f"{source} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{source} cannot be read as text: {error.reason}") from error
