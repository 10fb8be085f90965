"""What the nouns of the library have in common: lists, one of them, a change, an end."""

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from client.http import ApiClient, path_to
from client.sdk.record import Record

R = TypeVar("R", bound=Record)


class Noun(Generic[R]):
    """Things of one kind, each found by its id or name."""

    def __init__(self, client: ApiClient, noun: str, kind: type[R]) -> None:
        self._client = client
        self._noun = noun
        self._kind = kind

    def list(self) -> Iterator[R]:
        """Yield all of them, page by page."""
        return self._rows()

    def get(self, reference: str) -> R:
        """Return the one with this id or name; raises NotFound."""
        return self._kind.of(self._client.get(self._path(reference)))

    def _rows(self, where: Mapping[str, str | int | None] | None = None) -> Iterator[R]:
        return map(self._kind.of, self._client.rows(f"/{self._noun}", where))

    def _create(self, form: Mapping[str, Any]) -> R:
        return self._kind.of(self._client.post(f"/{self._noun}", said(form)))

    def _change(self, reference: str, changes: Mapping[str, Any]) -> R:
        """Change what is named, also to None."""
        return self._kind.of(self._client.patch(self._path(reference), changes))

    def _tell(self, reference: str, verb: str, form: Mapping[str, Any] | None = None) -> R:
        return self._kind.of(self._client.post(self._path(reference, verb), said(form or {}) or None))

    def _delete(self, reference: str) -> None:
        self._client.delete(self._path(reference))

    def _path(self, *segments: str) -> str:
        return path_to(self._noun, *segments)


def said(form: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a form says: nothing of what is None."""
    return {name: value for name, value in form.items() if value is not None}
