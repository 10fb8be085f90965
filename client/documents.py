"""JSON and YAML: what the command reads from files, and prints for programs."""

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

from protocols.errors import InvalidInput

if TYPE_CHECKING:
    import yaml

YAML_SUFFIXES = frozenset({".yaml", ".yml"})
_WIDE = 1_000_000
"""Characters of a line of YAML: texts are not folded, so that a line stays one for grep."""
_PREFIX = "tag:yaml.org,2002:"
_CONSTRUCTED = frozenset({"null", "bool", "int", "float", "str", "seq", "map"})
"""What JSON has; `!!binary`, `!!set` and all the others are refused."""
_PLAIN = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"-?(0|[1-9][0-9]*)", list("-0123456789")),
    ("float", r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", list("-0123456789")),
    ("merge", r"<<", ["<"]),
)
"""Which texts without quotes are no texts: tag, pattern, first characters."""
_ONLY_IN_1_2 = (
    ("int", r"0o[0-7]+", ["0"]),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
)
"""What YAML 1.2 takes for a number and 1.1, which the library writes, for a text."""


def to_json(value: Any) -> str:
    """Return `value` as JSON for people and programs."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def to_yaml(value: Any) -> str:
    """Return `value` as YAML that means the same to readers of YAML 1.1 and 1.2."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Puts quotes around what either version would take for something else than a text."""

    for tag, pattern, first in _ONLY_IN_1_2:
        Dumper.add_implicit_resolver(_PREFIX + tag, re.compile(f"(?:{pattern})$"), first)
    text: str = yaml.dump(
        value, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=_WIDE
    )
    return text.removesuffix("\n").removesuffix("\n...")


def read_yaml(file: TextIO) -> Iterator[Any]:
    """Yield the documents of a YAML file; raises InvalidInput with the line for what is none.

    Only what JSON has gets a type: `no` and `2026-01-01` stay the texts that they look like.
    """
    import yaml

    try:
        yield from yaml.load_all(file, Loader=_loader())
    except yaml.YAMLError as error:
        raise InvalidInput(f"this is no YAML: {_problem(error)}") from error
    except ValueError as error:  # an integer of thousands of digits
        raise InvalidInput(f"this YAML has a value that cannot be read: {error}") from error


def _loader() -> "type[yaml.SafeLoader]":
    import yaml

    base: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[valid-type, misc] # which of the two is known when it runs
        """Reads the types of JSON, and `<<` to merge."""

        yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 # the library's own way to start without any
        yaml_constructors = {  # noqa: RUF012
            tag: construct
            for tag, construct in base.yaml_constructors.items()
            if tag is None or tag.removeprefix(_PREFIX) in _CONSTRUCTED
        }

    for tag, pattern, first in _PLAIN:
        Loader.add_implicit_resolver(_PREFIX + tag, re.compile(f"(?:{pattern})$"), first)
    return Loader


def _problem(error: "yaml.YAMLError") -> str:
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}: " if mark else ""
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
    return where + problem.replace(_PREFIX, "!!")
