"""Write docs/cli.md, the reference of the `warren` command, from the command itself.

`python tools/cli_reference.py` writes it; with `--check` nothing is written, and the exit status is 1 if it is stale.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from client.cli.commands import COMMANDS, load

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "cli.md"
COMMON = ("output", "url", "key_file", "profile", "data_dir")
"""Options that nearly every command has, which the page tells once."""
HEAD = """\
# The `warren` command

This page is written by `tools/cli_reference.py` from the command's own `--help`; change that, not this.

`warren NOUN VERB` has the same verbs for every noun: `list`, `show`, `create`, `update`, `delete` (also understood:
`add`, `set`, `rm`), and those of its own. What cannot be undone asks first, and `--yes` answers. Lists go to stdout as
tables that fit the terminal, without colours where there is no terminal or `NO_COLOR` is set; remarks and errors go to
stderr, as `error:` and `hint:`.

## Which control plane, and with which key

Options win over the environment, that over a profile, that over a control plane on this machine:

1. `--url`; `--profile`, a name that `warren login` has kept; `--data-dir`, where a local control plane keeps everything
2. `WARREN_URL`, then `WARREN_PROFILE`, then `WARREN_DATA_DIR`
3. the current profile: that of the last login, or of `warren profile use`
4. the user's own data directory, where `warren up` and `warren serve` keep everything by default

The key is that of `--key-file`, else of `WARREN_API_KEY` (not with `--profile`), else the profile's or the local
administrator's. A profile's key and the local administrator's go to their own control plane only: same scheme, host
and port. Profiles are kept in `profiles.json` in the user's configuration directory (or `WARREN_CONFIG_DIR`), which
only the user can read.

## Exit statuses

| status | meaning |
|---|---|
| 0 | it is done; a task that was waited for has succeeded |
| 1 | something failed that should not |
| 2 | the command line, a file or a form is wrong |
| 3 | the task that was waited for is dead |
| 4 | the task that was waited for was cancelled |
| 5 | the control plane cannot be reached, or cannot do it now |
| 6 | it was refused: not allowed, not found, or in conflict with how things are |
| 74 | a disk is full or cannot be written |
| 77 | `warren worker run`: the control plane has turned this worker away |
| 78 | a setting or a kept file is wrong, or a part of Warren is not installed |
| 130 | interrupted |

## Options of nearly every command
"""


def reference() -> str:
    """Return the whole page."""
    show = load("task").commands["show"]
    parts = [HEAD, _records(show, _context(show, "warren task show"), COMMON), ""]
    for name in COMMANDS:
        parts += _command(load(name), f"warren {name}", 2)
    return "\n".join(parts).rstrip() + "\n"


def _command(command: Any, path: str, level: int) -> Iterator[str]:
    context = _context(command, path)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"{'#' * level} {path}\n"
    yield f"`{path} {usage}`\n"
    yield _prose(command.help) + "\n"
    own = tuple(parameter.name for parameter in command.params if parameter.name not in _shared(command))
    if records := _records(command, context, own):
        yield records + "\n"
    yield _examples(command.epilog)
    if isinstance(command, TyperGroup):
        for name in command.list_commands(context):
            if not command.commands[name].hidden:
                yield from _command(command.commands[name], f"{path} {name}", level + 1)


def _shared(command: Any) -> tuple[str, ...]:
    names = {parameter.name for parameter in command.params}
    return COMMON if names.issuperset(COMMON) else ("output",)


def _records(command: Any, context: Any, names: tuple[str, ...]) -> str:
    told = [parameter.get_help_record(context) for parameter in command.params if parameter.name in names]
    return "\n".join(f"- `{left}`: {_one_line(right)}" for left, right in told)


def _examples(epilog: str) -> str:
    lines = [line.strip() for line in epilog.splitlines()[2:]]
    return "\n".join(["```sh", *lines, "```", ""])


def _prose(text: str) -> str:
    return "\n\n".join(_one_line(paragraph) for paragraph in text.split("\n\n"))


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _context(command: Any, path: str) -> Any:
    return command.make_context(path, [], resilient_parsing=True)


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` only say whether it is current."""
    page = reference()
    if arguments == ["--check"]:
        current = TARGET.is_file() and TARGET.read_text(encoding="utf-8") == page
        if not current:
            print(f"{TARGET.relative_to(ROOT)} is stale: run python tools/cli_reference.py", file=sys.stderr)
        return 0 if current else 1
    TARGET.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
