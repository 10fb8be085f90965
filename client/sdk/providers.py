"""Providers: where models are asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict, Unpack

from client.http import ApiClient
from client.sdk.noun import Noun
from client.sdk.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider(Record):
    """An LLM provider; `secret` is the name of the secret that has its API key."""

    id: str
    name: str
    kind: str
    base_url: str
    created_at: datetime
    updated_at: datetime
    secret: str | None = None
    models: tuple[str, ...] = ()


class ProviderChange(TypedDict, total=False):
    """What can be said of a provider."""

    kind: str
    base_url: str
    secret: str | None
    models: Sequence[str]


class Providers(Noun[Provider]):
    """The providers of the control plane."""

    def __init__(self, client: ApiClient) -> None:
        super().__init__(client, "providers", Provider)

    def create(self, name: str, base_url: str, *, secret: str | None = None, kind: str | None = None) -> Provider:
        """Add a provider; raises Conflict if the name is taken."""
        return self._create({"name": name, "base_url": base_url, "secret": secret, "kind": kind})

    def update(self, provider: str, **changes: Unpack[ProviderChange]) -> Provider:
        """Change what is named."""
        return self._change(provider, changes)

    def delete(self, provider: str) -> None:
        """Delete it; raises Conflict while unfinished tasks use it."""
        self._delete(provider)
