"""What the command reads and prints as YAML."""

import io

import pytest
import yaml

from client.documents import read_yaml, to_yaml
from protocols.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("2026-01-01", "2026-01-01"),
        ("12:30", "12:30"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("-12", -12),
        ("1e3", 1000.0),
        ("1.50", 1.5),
        ("true", True),
        ("~", None),
        ("", None),
        ('"true"', "true"),
        ("{a: [1, x]}", {"a": [1, "x"]}),
    ],
)
def test_yaml_has_the_types_of_json_and_no_surprises(text: str, value: object) -> None:
    """Words, dates and times of day stay texts; numbers, truth values and null are those of JSON."""
    assert list(read_yaml(io.StringIO(f"key: {text}"))) == [{"key": value}]


def test_yaml_has_documents_anchors_and_merges() -> None:
    """A file may hold several documents; `<<` merges what an anchor names."""
    text = "- &base {priority: high, pool: a}\n- {<<: *base, pool: b}\n---\nx: 1\n"
    assert list(read_yaml(io.StringIO(text))) == [
        [{"priority": "high", "pool": "a"}, {"priority": "high", "pool": "b"}],
        {"x": 1},
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: [", "line 3"),
        ("a: !!python/object/apply:os.system [true]", "line 1"),
        ("a: !!timestamp '2026-01-01'", "!!timestamp"),
        ("a: !!binary aGk=", "!!binary"),
        ("a: \x00", "control characters"),
        ("a: " + "9" * 5000, "cannot be read"),
        ("{[a]: b}", "line 1"),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_place(text: str, said: str) -> None:
    """Broken YAML, and types that JSON has not, are refused in one line."""
    with pytest.raises(InvalidInput) as caught:
        list(read_yaml(io.StringIO(text)))
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_what_is_written_as_yaml_is_read_as_the_same_by_everybody() -> None:
    """Texts that some YAML takes for numbers, dates or truth values are quoted; long lines stay lines."""
    texts = ["no", "yes", "2026-01-01", "12:30", "010", "0o17", "1e3", ".5", "1_000", "null", "~", "<<", "=", "a: b"]
    value: dict[str, object] = {"texts": texts, "long": "word " * 100, "lines": "a\nb\n", "umlaut": "ü"}
    value |= {"empty": "", "none": None, "more": [1, 1.5, True, {}, []]}
    written = to_yaml(value)
    assert list(read_yaml(io.StringIO(written))) == [value]
    assert yaml.safe_load(written) == value
    assert all(f"- {text}\n" not in written for text in texts)
    assert "ü" in written


def test_a_lone_value_is_written_without_marks() -> None:
    """A text alone is printed as it is."""
    assert to_yaml("x") == "x"
    assert to_yaml([]) == "[]"
