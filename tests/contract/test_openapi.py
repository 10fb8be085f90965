"""The OpenAPI document is complete: whatever an operation can do, a client learns it there."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from itertools import combinations, permutations
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jsonschema_rs
import pytest
import pytest_asyncio
from fastapi.routing import RouteContext, iter_route_contexts
from pydantic import TypeAdapter, ValidationError
from starlette.routing import WebSocketRoute

from broker.api.app import create_api
from broker.api.document import DocumentedApi
from broker.api.mounts import BASE_PATH
from broker.api.secrets import SecretForm
from broker.app import running
from broker.fleet import Registration
from broker.settings import Settings
from protocols.clock import SystemClock

CAMEL_CASE = re.compile(r"[a-z][a-z0-9]*([A-Z][a-z0-9]*)*")
WITHOUT_KEY = {"/health", "/healthz", "/livez", "/readyz"}
REFERENCE = Path(__file__).parents[2] / "docs" / "http.md"
ONE_VERB = {f"{BASE_PATH}/admin/workers/{{reference}}/approve"}
"""Paths whose contract has PATCH alone."""
MEANT_TO_HIDE = ("GET", "/v1/files/{file_id}", "/v1/files/{file_id}")
"""Contract 001 has a file's bytes where contract 002 has what is known of it: each base answers as its own does."""
NAMES: dict[str, Any] = {
    "workers": Registration.model_fields["name"],
    "secrets": SecretForm.model_fields["name"],
}
"""How things are named, by the collection in whose paths fixed words stand beside their names."""


class Operation(NamedTuple):
    """One operation of the document."""

    method: str
    path: str
    body: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path} ({self.body.get('operationId')})"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DocumentedApi]:
    """The application of a control plane that nobody can reach."""
    directory: Path = tmp_path_factory.mktemp("openapi")
    async with running(Settings(data_dir=directory), SystemClock()) as control:
        yield create_api(control)


@pytest.fixture(scope="module")
def document(api: DocumentedApi) -> dict[str, Any]:
    """The document."""
    return api.openapi()


@pytest.fixture(scope="module")
def operations(document: dict[str, Any]) -> list[Operation]:
    """All operations."""
    return [
        Operation(method, path, body) for path, methods in document["paths"].items() for method, body in methods.items()
    ]


def wrong(findings: Iterator[str]) -> None:
    """Fail with all findings at once, a line each."""
    found = sorted(set(findings))
    assert not found, "\n".join(["", *found])


def resolved(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """Return what a node is or refers to."""
    while "$ref" in node:
        found: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


def parameters(operations: list[Operation]) -> Iterator[tuple[Operation, dict[str, Any]]]:
    """Yield each parameter of each operation."""
    for operation in operations:
        for parameter in operation.body.get("parameters", ()):
            yield operation, parameter


def answers(document: dict[str, Any], operations: list[Operation]) -> Iterator[tuple[Operation, str, dict[str, Any]]]:
    """Yield each answer of each operation, with its status."""
    for operation in operations:
        for status, answer in operation.body["responses"].items():
            yield operation, status, resolved(document, answer)


def test_it_says_what_it_describes(document: dict[str, Any]) -> None:
    """Title, description, licence, server, and the two ways to send a key are there."""
    assert {"title", "version", "description", "license"} <= document["info"].keys()
    assert document["servers"]
    assert document["components"]["securitySchemes"].keys() == {"bearer", "apiKey"}
    assert document["openapi"].startswith("3.1")


def test_every_operation_has_its_own_name(operations: list[Operation]) -> None:
    """operationId is there, unique and in camel case."""
    counted = Counter(operation.body["operationId"] for operation in operations)
    wrong(f"{name}: {count} operations" for name, count in counted.items() if count > 1)
    wrong(f"{one}: no camelCase" for one in operations if not CAMEL_CASE.fullmatch(one.body["operationId"]))


def test_every_operation_is_described(document: dict[str, Any], operations: list[Operation]) -> None:
    """Summary, description and a tag that is described itself."""
    tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    wrong(f"{one}: no docstring" for one in operations if not one.body.get("description"))
    wrong(f"{one}: no summary" for one in operations if not one.body.get("summary"))
    wrong(f"{one}: summary too long: {one.body['summary']!r}" for one in operations if len(one.body["summary"]) > 120)
    wrong(f"{one}: tags {one.body.get('tags')}" for one in operations if len(one.body.get("tags", ())) != 1)
    wrong(f"{one}: its tag is not in TAGS" for one in operations if not tags.issuperset(one.body["tags"]))
    used = {tag for one in operations for tag in one.body["tags"]}
    assert used == tags, "TAGS describes what nothing uses"


def test_every_parameter_is_described(operations: list[Operation]) -> None:
    """Each parameter has a description and bounds, if it is text or a number."""
    wrong(f"{one}: {par['name']} has no description" for one, par in parameters(operations) if "description" not in par)
    wrong(
        f"{one}: {par['name']} has no limit"
        for one, par in parameters(operations)
        if par["in"] != "path" and not bounded(par["schema"])
    )


def bounded(schema: dict[str, Any]) -> bool:
    """Return whether a parameter's values have a limit."""
    choices = schema.get("anyOf") or [schema]
    return all(_bounded(choice) for choice in choices if choice.get("type") != "null")


def _bounded(schema: dict[str, Any]) -> bool:
    if schema.get("type") == "string" and "format" not in schema:
        return not {"maxLength", "enum", "const", "pattern"}.isdisjoint(schema)
    if schema.get("type") in ("integer", "number"):
        return "maximum" in schema
    return True


def test_every_limit_is_told_in_words_that_others_know(document: dict[str, Any]) -> None:
    """Where pydantic cannot translate a limit, it puts its own word for it, which no client understands."""
    own = {"ge", "gt", "le", "lt", "min_length", "max_length", "multiple_of"}
    wrong(
        f"{name}: {word}" for name, schema in document["components"]["schemas"].items() for word in own & words(schema)
    )


def words(node: Any) -> set[str]:
    """Return all keys in a schema but the names of properties."""
    if isinstance(node, list):
        return set().union(*map(words, node))
    if not isinstance(node, dict):
        return set()
    inner = [*node.get("properties", {}).values(), *(value for key, value in node.items() if key != "properties")]
    return set(node).union(*map(words, inner))


def test_everything_but_probes_needs_a_key(operations: list[Operation]) -> None:
    """Security is required of each operation that is no probe; both ways to send a key are named."""
    wrong(
        f"{one}: security {one.body.get('security')}"
        for one in operations
        if (one.path in WITHOUT_KEY) != ("security" not in one.body)
    )
    wrong(
        f"{one}: security {one.body['security']}"
        for one in operations
        if "security" in one.body and not {"bearer", "apiKey"} <= {name for way in one.body["security"] for name in way}
    )
    wrong(f"{one}: no role" for one in operations if "security" in one.body and not one.body.get("x-roles"))


def test_every_answer_has_a_body_that_is_described(document: dict[str, Any], operations: list[Operation]) -> None:
    """Each answer but 204 has a media type, and JSON has a schema that says something."""
    for one, status, answer in answers(document, operations):
        if status == "204":
            assert "content" not in answer, f"{one}: a body for 204"
            continue
        assert answer.get("content"), f"{one}: no content for {status}"
        for media_type, content in answer["content"].items():
            if media_type == "application/json":
                assert resolved(document, content.get("schema", {})), f"{one}: no schema for {status}"


def test_every_refusal_has_the_one_body(document: dict[str, Any], operations: list[Operation]) -> None:
    """Each answer from 400 on is a Refusal in JSON, but that of a probe."""
    refusal = {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}}
    wrong(
        f"{one}: {status} has another body"
        for one, status, answer in answers(document, operations)
        if status >= "400" and one.path not in WITHOUT_KEY and answer["content"] != refusal
    )


def test_every_operation_succeeds_and_can_be_refused(operations: list[Operation]) -> None:
    """Each has a success, and what can go wrong everywhere."""
    wrong(f"{one}: no success" for one in operations if not any(status < "300" for status in one.body["responses"]))
    for one in operations:
        expected = set() if one.path in WITHOUT_KEY else {"401", "403", "429", "503"}
        expected |= {"404"} if "{" in one.path else set()
        expected |= {"422"} if one.body.get("parameters") or "requestBody" in one.body else set()
        expected |= {"413", "404"} if "requestBody" in one.body else set()
        expected |= {"409", "507"} if one.method != "get" else set()
        missing = expected - one.body["responses"].keys()
        assert not missing, f"{one}: {sorted(missing)} are not declared"


def test_whoever_makes_something_tells_where_it_is(document: dict[str, Any], operations: list[Operation]) -> None:
    """Each 201 has a Location."""
    wrong(
        f"{one}: no Location"
        for one, status, answer in answers(document, operations)
        if status == "201" and "Location" not in answer.get("headers", {})
    )


def test_every_body_has_an_example_that_fits(document: dict[str, Any], operations: list[Operation]) -> None:
    """Each form shows how it is filled in, and each example is valid under the form's own schema."""
    for one in operations:
        for media_type, content in one.body.get("requestBody", {}).get("content", {}).items():
            examples = list(examples_of(document, content))
            assert examples, f"{one}: no example of {media_type}"
            if media_type == "application/json":
                schema = {**content["schema"], "components": document["components"]}
                validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
                problems = [str(problem) for example in examples for problem in validator.iter_errors(example)]
                assert not problems, f"{one}: {problems}"


def examples_of(document: dict[str, Any], content: dict[str, Any]) -> Iterator[Any]:
    """Yield the examples of a body, wherever they are."""
    yield from (example["value"] for example in content.get("examples", {}).values())
    if "example" in content:
        yield content["example"]
    choices = content["schema"].get("anyOf") or [content["schema"]]
    for choice in choices:
        yield from resolved(document, choice).get("examples", ())


def test_changing_has_two_verbs(document: dict[str, Any]) -> None:
    """Whatever takes PATCH takes PUT too, with the same form and the same answer."""
    for path, methods in document["paths"].items():
        if "patch" not in methods or path in ONE_VERB:
            continue
        assert "put" in methods, f"{path}: PATCH without PUT"
        for part in ("requestBody", "responses", "parameters"):
            assert methods["put"].get(part) == methods["patch"].get(part), f"{path}: PUT and PATCH differ in {part}"


def test_what_a_change_leaves_out_has_no_default(document: dict[str, Any]) -> None:
    """A client that sends defaults along must not change what it never heard of."""
    for path, methods in document["paths"].items():
        if "patch" in methods and path not in ONE_VERB:
            form = resolved(document, methods["patch"]["requestBody"]["content"]["application/json"]["schema"])
            wrong(f"PATCH {path}: {name}" for name, field in form["properties"].items() if "default" in field)


def test_lists_filter_states_and_turn_pages_alike(operations: list[Operation]) -> None:
    """Who takes one spelling of a state or a page takes them all."""
    for one in operations:
        names = {parameter["name"] for parameter in one.body.get("parameters", ()) if parameter["in"] == "query"}
        for together in ({"state", "status", "status_filter"}, {"limit", "offset", "cursor", "page", "page_size"}):
            assert names & together in (set(), together), f"{one}: {sorted(together - names)} are missing"


def test_the_reference_page_has_every_operation(api: DocumentedApi, operations: list[Operation]) -> None:
    """docs/http.md names each operation of the document, and nothing that is not served."""
    written = set(written_operations())
    wrong(
        f"{one} is not in docs/http.md"
        for one in operations
        if (one.method.upper(), nameless(one.path.removeprefix(BASE_PATH))) not in written
    )
    served = {
        (method, nameless(str(route.path)))
        for route in iter_route_contexts(api.routes)
        for method in (("WS",) if isinstance(route.original_route, WebSocketRoute) else route.methods or ())
    }
    wrong(
        f"docs/http.md: {method} {path} is not served"
        for method, path in written
        if served.isdisjoint({(method, path), (method, BASE_PATH + path)})
    )


def written_operations() -> Iterator[tuple[str, str]]:
    """Yield method and path of each row of the page's tables; a row may name several methods of one path."""
    for row in REFERENCE.read_text().splitlines():
        spans = re.findall(r"`([^`]+)`", row.split("|")[1]) if row.startswith("| `") else []
        path = nameless(spans[-1].partition(" ")[2]) if spans else ""
        if path.startswith("/"):
            yield from ((span.partition(" ")[0], path) for span in spans)


def nameless(path: str) -> str:
    """Return a path whose variables have no names, which differ from page to page."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def test_no_route_hides_another(api: DocumentedApi) -> None:
    """A path that is fixed comes before one with a variable in its place, under every base."""
    routes = list(iter_route_contexts(api.routes))
    assert len(routes) > 100
    hidden = [
        (*sorted(route.methods or ()), str(route.path), str(earlier.path))
        for earlier, route in combinations(routes, 2)
        if collide(earlier, route) and earlier.path_regex.match(re.sub(r"\{[^}]*\}", "any~thing", str(route.path)))
    ]
    assert hidden == [MEANT_TO_HIDE]


def collide(one: RouteContext, other: RouteContext) -> bool:
    """Return whether a request could be meant for both."""
    if isinstance(one.original_route, WebSocketRoute) or isinstance(other.original_route, WebSocketRoute):
        return type(one.original_route) is type(other.original_route)
    return bool((one.methods or set()) & (other.methods or set()))


def test_no_name_is_hidden_by_a_path(api: DocumentedApi) -> None:
    """A fixed word where a name could stand, for the same method, is a word that nothing may be called."""
    words_of = fixed_words(api)
    assert words_of.keys() == NAMES.keys()
    for collection, words in words_of.items():
        name = TypeAdapter(Annotated[str, *NAMES[collection].metadata])
        assert name.validate_python("a-name")
        for word in words:
            with pytest.raises(ValidationError, match="reserved"):
                name.validate_python(word)


def fixed_words(api: DocumentedApi) -> dict[str, set[str]]:
    """Return the words that stand beside `{reference}`, by collection."""
    paths = [
        (method, str(route.path).split("/"))
        for route in iter_route_contexts(api.routes)
        for method in route.methods or ()
        if str(route.path).startswith(BASE_PATH)
    ]
    found: dict[str, set[str]] = {}
    for (method, named), (other_method, fixed) in permutations(paths, 2):
        if method == other_method and "{reference}" in named and len(named) == len(fixed):
            place = named.index("{reference}")
            different = [at for at, (one, other) in enumerate(zip(named, fixed, strict=True)) if one != other]
            if different == [place]:
                found.setdefault("/".join(fixed[3:place]), set()).add(fixed[place])
    return found
