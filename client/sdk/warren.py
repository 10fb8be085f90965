"""The library's front door: one object for one control plane."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

from client.http import ApiClient, Params
from client.profile import resolve_profile
from client.sdk import forms, many
from client.sdk.agents import Agents
from client.sdk.connections import Connections
from client.sdk.dead_letters import DeadLetters
from client.sdk.files import Files
from client.sdk.many import AnyTask
from client.sdk.providers import Providers
from client.sdk.queues import Queues
from client.sdk.secrets import Secrets
from client.sdk.settings import Settings
from client.sdk.task import ChatResult, CommandResult, Event, Task
from client.sdk.tasks import Tasks
from client.sdk.workers import Workers


class Warren:
    """A control plane, as seen with one API key.

    Safe for use from many threads at once; a child process that was forked makes its own. Every failure is a
    WarrenError. What can be repeated without harm is tried again for `retry_for_s` seconds after it first failed
    in passing, submissions included: each exists once, however often it had to be sent.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        data_dir: str | Path | None = None,
        timeout_s: float = 30.0,
        retry_for_s: float = 60.0,
    ) -> None:
        """Connect as the command does: what is not given comes from WARREN_URL and WARREN_API_KEY, else from here.

        "Here" is a control plane that runs on this machine, found by its data directory. Nothing is sent yet.
        Raises Unreachable if no control plane is known, Unauthenticated if no key for it is, InvalidSettings for
        what can be neither.
        """
        environ = {**os.environ, **({"WARREN_API_KEY": key} if key else {})}
        profile = resolve_profile(url, None, Path(data_dir) if data_dir else None, environ)
        self._client = ApiClient(
            profile.url, profile.key, timeout_s=timeout_s, retry_for_s=retry_for_s, patience_s=retry_for_s
        )
        self.tasks = Tasks(self._client)
        self.dead_letters = DeadLetters(self._client)
        self.workers = Workers(self._client)
        self.queues = Queues(self._client)
        self.agents = Agents(self._client)
        self.secrets = Secrets(self._client)
        self.providers = Providers(self._client)
        self.connections = Connections(self._client)
        self.files = Files(self._client)
        self.settings = Settings(self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Warren({self.url!r})"

    @property
    def url(self) -> str:
        """Where the control plane is."""
        return self._client.url

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def submit(
        self, action: str, *, idempotency_key: str | None = None, **options: Unpack[forms.CallOptions]
    ) -> Task[Any]:
        """Submit a call of a Python function that workers have installed: `submit("resize", args=["a.png", 80])`.

        The same `idempotency_key` with the same call gives the same task, however often; so it is with the others.
        """
        return self.tasks.submit(forms.call(action, **options), idempotency_key)

    def llm(
        self,
        provider: str,
        model: str,
        prompt: str | Sequence[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[forms.ChatOptions],
    ) -> Task[ChatResult]:
        """Submit a question to a model; `prompt` is a text, or a conversation's messages."""
        return self.tasks.submit(forms.llm(provider, model, prompt, **options), idempotency_key)

    def ssh(
        self,
        connection: str,
        command: str | Sequence[str],
        *,
        idempotency_key: str | None = None,
        **options: Unpack[forms.CommandOptions],
    ) -> Task[CommandResult]:
        """Submit a command for a host: a line for its shell, or a list of exactly these words."""
        return self.tasks.submit(forms.ssh(connection, command, **options), idempotency_key)

    def agent(
        self,
        agent: str,
        instructions: str,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[forms.TaskOptions],
    ) -> Task[ChatResult]:
        """Submit a task for an agent, by its id or name; raises Conflict if that is stopped."""
        return self.tasks.submit(forms.agent(agent, instructions, **options), idempotency_key)

    def submit_many(
        self,
        forms: Iterable[Mapping[str, Any]],
        *,
        idempotency_key: str | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Sequence[Task[Any]]:
        """Submit many forms (see `warren.forms`), up to a thousand with a request; return their tasks, in order.

        The forms of one request become tasks together or not at all; `progress` hears how many exist so far. If it
        fails half-way, the same forms with the same `idempotency_key` go on where it ended.
        """
        return many.submit_many(self._client, forms, idempotency_key, progress)

    def as_completed(self, tasks: Iterable[AnyTask], timeout_s: float | None = None) -> Iterator[AnyTask]:
        """Yield tasks as they finish, each once; raises WaitTimeout if some have not after `timeout_s`."""
        return many.as_completed(self._client, tasks, timeout_s)

    def events(self, after: int = 0) -> Iterator[Event]:
        """Yield the journal, from behind the event with this id on, for ever, as it is written."""
        for told in self._client.stream("/events", after=str(after)):
            yield Event.parse(told.data)

    def request(self, method: str, path: str, *, json: Any = None, params: Params | None = None) -> Any:
        """Send any request, for what has no method here, and return the JSON of the answer, None if it has none."""
        answer = self._client.request(method, path, json=json, params=params)
        return answer.json() if answer.content else None
