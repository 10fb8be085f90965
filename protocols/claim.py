"""The claim and its answer: the gate that every execution passes before its first effect."""

from enum import StrEnum

from pydantic import Field
from pydantic.dataclasses import dataclass

from protocols.values import FROZEN, Blob, Count, Flag, Id, Key, Name, Seconds, Text


class Verdict(StrEnum):
    """What a worker shall do with a delivery."""

    RUN = "run"
    RUN_ISOLATED = "run_isolated"
    """Alone in a fresh child process: the task is suspected of ending the processes that run it."""
    DROP = "drop"
    """Acknowledge it and forget it: it was cancelled, has started elsewhere, or is an older attempt."""


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Claim:
    """A worker's wish to run one delivered attempt."""

    task_id: Id
    attempt: Count
    execution_id: Id
    redelivered: Flag = False


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class ProviderAccess:
    """How to reach an LLM provider. `secret` names the API key among the answer's secrets."""

    name: Name
    kind: Name
    base_url: Text
    secret: Name | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class ConnectionAccess:
    """How to reach a host. `secret` names the private key or password among the answer's secrets."""

    name: Name
    hostname: Text
    port: Count
    username: Name
    auth_method: Name
    """`key` or `password`."""
    host_keys: tuple[Text, ...] = Field(max_length=32)
    """Pinned fingerprints, `SHA256:…` as OpenSSH prints them."""
    secret: Name | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=FROZEN)
class Answer:
    """The control plane's answer to a claim; the same for every repetition of the claim."""

    task_id: Id
    execution_id: Id
    verdict: Verdict
    reason: Text = ""
    envelope_sha256: Key | None = None
    timeout_s: Seconds = 0.0
    """How long the execution may take, counted from the answer's arrival."""
    provider: ProviderAccess | None = None
    connection: ConnectionAccess | None = None
    secrets: dict[Name, Blob] = Field(default_factory=dict, max_length=64)
    """Each sealed to the worker's key and this execution (see `sealing`)."""
