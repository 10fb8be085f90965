"""All commands: that they are alike, that their help helps, and that it comes fast."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from client.cli.commands import COMMANDS, load
from client.cli.main import app, main
from tests.support.completion import completions

Commands = dict[str, Any]
LONGEST_LINE = 100
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
ROOT = Path(__file__).resolve().parents[2]
LOCAL = {"up", "serve", "worker run", "logout", "completion"}
"""Commands that print no data of the control plane."""


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from _walk(inner, f"{path} {name}")


@pytest.fixture(scope="module")
def commands() -> Commands:
    """Every command by what is typed for it, without `warren`."""
    return {path: command for name in COMMANDS for path, command in _walk(load(name), name)}


def _context(command: Any, path: str) -> Any:
    return command.make_context(path, [], resilient_parsing=True)


def _options(command: Any) -> set[str]:
    return {word for parameter in command.params for word in parameter.opts}


def _verbs(commands: Commands) -> Commands:
    return {path: command for path, command in commands.items() if not isinstance(command, TyperGroup)}


def test_every_commands_help_has_an_example_that_can_be_typed(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each --help ends with commands to copy: of that very command, and without a mistake in them."""
    monkeypatch.setenv("COLUMNS", "80")
    for path, command in commands.items():
        help_text = _context(command, path).get_help()
        examples = [line.strip() for line in help_text.partition("Example")[2].splitlines()[1:]]
        assert examples, f"warren {path} has no example"
        for example in examples:
            typed = example.removeprefix('eval "$(').removesuffix(')"')
            if not command.hidden:
                assert typed.startswith(f"warren {path}"), example
            assert len(example) <= LONGEST_LINE, example
            _parse(commands, shlex.split(typed, comments=True)[1:])


def test_what_the_documentation_says_to_type_can_be_typed(commands: Commands) -> None:
    """The commands in the code blocks of the README and of docs/ exist, with the options that are shown."""
    tried = 0
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                words = list(dropwhile(_ASSIGNMENT.match, shlex.split(line, comments=True)))
                if words[:1] == ["warren"] and words[1] in COMMANDS:
                    tried += 1
                    try:
                        _parse(commands, words[1:])
                    except (typer.TyperException, StopIteration) as error:
                        pytest.fail(f"{page.name}: {line}: {error}")
    assert tried > 100


def _parse(commands: Commands, words: list[str]) -> None:
    if ">" in words:
        words = words[: words.index(">")]
    path = next(path for length in (3, 2, 1) if (path := " ".join(words[:length])) in commands)
    commands[path].make_context(path, words[len(path.split()) :])


def test_no_line_of_help_is_cut(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 80 columns the list of a group's commands tells each one's purpose whole."""
    monkeypatch.setenv("COLUMNS", "80")
    for path, command in commands.items():
        assert "..." not in _context(command, path).get_help().partition("Commands:")[2], f"warren {path}"


def test_the_list_of_commands_says_what_each_of_them_says(commands: Commands) -> None:
    """What `warren --help` tells of a command, without importing it, is what the command tells of itself."""
    for name, purpose in COMMANDS.items():
        assert (commands[name].help or "").startswith(purpose), name


def test_every_command_explains_all_that_it_takes(commands: Commands) -> None:
    """There is a sentence for each command and each of its arguments and options."""
    for path, command in commands.items():
        assert (command.help or "").rstrip().endswith("."), path
        for parameter in command.params:
            assert parameter.help or parameter.name == "port", f"warren {path}: {parameter.name}"


def test_whatever_prints_data_prints_it_for_programs_too(commands: Commands) -> None:
    """Each command has --output, and those that ask the control plane have the options that say which."""
    for path, command in _verbs(commands).items():
        if path in LOCAL:
            continue
        assert "--output" in _options(command), path
        if path.split()[0] not in {"login", "profile"}:
            assert {"--url", "--key-file", "--profile", "--data-dir"} <= _options(command), path


def test_verbs_are_alike(commands: Commands) -> None:
    """Every list has a limit, everything that is shown is shown by its reference, everything that deletes asks."""
    for path, command in _verbs(commands).items():
        noun, _, verb = path.partition(" ")
        if verb == "list" and noun not in {"profile", "setting"}:
            assert "--limit" in _options(command), path
        if verb in {"show", "delete"} and noun not in {"profile", "setting"}:
            assert next(parameter.name for parameter in command.params) == "reference", path
        if verb in {"delete", "rm", "reject"}:
            assert "--yes" in _options(command), path


def test_older_and_other_words_for_verbs_are_understood(commands: Commands) -> None:
    """`add` and `rm` do what `create` and `delete` do, without a line in the list."""
    for noun in ("provider", "connection", "secret", "agent"):
        for word, verb in (("add", "create"), ("rm", "delete")):
            assert commands[f"{noun} {word}"].hidden
            assert commands[f"{noun} {word}"].help == commands[f"{noun} {verb}"].help


def test_a_slip_is_answered_with_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped command is told apart from those that exist."""
    assert main(["taks", "list"]) == 2
    assert "Did you mean 'task'?" in capsys.readouterr().err
    assert main(["task", "shwo"]) == 2
    assert "Did you mean 'show'?" in capsys.readouterr().err


def _imported(*nouns: str) -> set[str]:
    """Return the modules of a process that has printed the help of these."""
    program = (
        "import sys; from client.cli.main import main\n"
        "for noun in sys.argv[1:]: main([*noun.split(), '--help'])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", program, *nouns], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Usage:") == len(nouns)
    return set(ended.stderr.split())


def test_help_imports_nothing_heavy() -> None:
    """Help is answered without the HTTP client, pydantic, rich or YAML."""
    heavy = {"httpx2", "pydantic", "rich", "yaml", "paramiko", "fastapi", "sqlalchemy", "cryptography", "platformdirs"}
    assert not _imported("", *COMMANDS) & heavy


@pytest.mark.parametrize(("noun", "modules"), [("", set()), ("provider", {"client.cli.provider"})])
def test_a_command_is_imported_when_it_is_named(noun: str, modules: set[str]) -> None:
    """Nobody waits for commands that were not asked for."""
    assert _imported(noun) & {f"client.cli.{name.replace('-', '_')}" for name in COMMANDS} == modules


def test_the_shell_completes_commands_options_and_words() -> None:
    """The tab key offers commands, verbs, options and the words that an option takes."""
    assert {"task", "worker", "queue"} <= set(completions("warren "))
    assert completions("warren dead") == ["dead-letter"]
    assert {"list", "retry-all"} <= set(completions("warren dead-letter "))
    assert "add" not in completions("warren provider ")
    assert completions("warren task list --created-a") == ["--created-after"]
    assert completions("warren task list --priority h") == ["high"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_a_shell_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`warren completion` prints what the shell runs; it is for the command `warren`."""
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"_WARREN_COMPLETE=complete_{shell}" in script
    assert "warren" in script


def test_the_program_has_no_options_of_the_library() -> None:
    """The library's own options for completion are not there beside `warren completion`."""
    assert not app._add_completion
