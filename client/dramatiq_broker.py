"""WarrenBroker: a dramatiq program submits to Warren by making this its broker, and changes nothing else.

Its actors run on Warren's workers, which know them by the entry points of the group `warren.actions`.
"""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dramatiq import Actor, Message
from dramatiq.broker import Broker, Consumer
from dramatiq.errors import ConnectionFailed, QueueNotFound
from dramatiq.middleware import Middleware

from client.dramatiq_forms import (
    CARRIED,
    KEY,
    OF_MESSAGES,
    REFUSED,
    Stage,
    check_middleware,
    check_options,
    middleware_options,
    task_form,
)
from client.dramatiq_results import WarrenResults
from client.http import ApiClient
from client.profile import resolve_profile
from protocols.errors import IdempotencyMismatch, InvalidInput, InvalidName, Unavailable
from protocols.names import ACTION_ENTRY_POINTS, check_name

_NO_WORKER = (
    "WarrenBroker only sends. Actors run on Warren's workers: declare them as entry points of the group "
    f"{ACTION_ENTRY_POINTS!r} (or in WARREN_WORKER_ACTIONS) and start `warren worker run`"
)


class WarrenBroker(Broker):
    """Submits messages as tasks; safe from any thread.

    It connects at the first message, so that a module with actors can be imported where there is no control plane.

    Parameters:
      url: The control plane; WARREN_URL by default, or the one of this machine.
      api_key: An API key with the role operator; WARREN_API_KEY by default.
      pools: The pool of each queue whose name no pool can have; all others go to the pool of their name.
      middleware: In place of dramatiq's default. Hooks of sending are called; those of a worker are refused.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        pools: Mapping[str, str] | None = None,
        middleware: Sequence[Middleware] | None = None,
    ) -> None:
        self._url = url
        self._environ = os.environ if api_key is None else {**os.environ, "WARREN_API_KEY": api_key}
        self._pools = {queue: check_name(pool, "pool") for queue, pool in (pools or {}).items()}
        self._connected: ApiClient | None = None
        self._connecting = threading.Lock()
        self._results = WarrenResults(self._api)
        super().__init__(None if middleware is None else list(middleware))
        # What is refused has to be known, or dramatiq asks for a middleware that would not help.
        self.actor_options |= CARRIED | REFUSED.keys()

    def add_middleware(
        self,
        middleware: Middleware,
        *,
        before: type[Middleware] | None = None,
        after: type[Middleware] | None = None,
    ) -> None:
        """Add middleware; raises InvalidInput for what would work in dramatiq's worker."""
        check_middleware(middleware)
        super().add_middleware(middleware, before=before, after=after)

    def declare_actor(self, actor: Actor[Any, Any]) -> None:
        """Make an actor known; raises InvalidInput for options that Warren cannot carry."""
        check_options({**middleware_options(self.middleware), **actor.options}, f"actor {actor.actor_name!r}")
        self._pool(actor.queue_name)
        super().declare_actor(actor)

    def declare_queue(self, queue_name: str) -> None:
        """Make a queue known; raises InvalidInput if no pool can have its name."""
        if queue_name not in self.queues:
            self._pool(queue_name)
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = None
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Submit a message, and all that it is piped into, as one task; when this returns, it is durable.

        The message id is the Idempotency-Key: a message becomes one task, however often it is sent.
        Raises QueueNotFound, ConnectionFailed, and InvalidInput for what Warren cannot carry.
        """
        messages = list(_chain(message))
        message.options.pop(KEY, None)
        for number, stage in enumerate(messages[1:], start=1):
            # The same dictionary as in the pipeline's own message, which thereby finds its result.
            stage.options[KEY] = f"{message.message_id} {number}"
        delays = [delay, *(stage.options.get("delay") for stage in messages[1:])]
        for stage, delay_ms in zip(messages, delays, strict=True):
            self.emit_before("enqueue", stage, delay_ms)
        form = task_form(self._stages(messages), delay)
        try:
            self._api().create("/tasks", form, key=message.message_id)
        except IdempotencyMismatch as error:
            raise InvalidInput(
                f"message {message.message_id} was sent before, and differently: build another"
            ) from error
        except Unavailable as error:
            raise ConnectionFailed(f"{error.message}; {error.hint}" if error.hint else error.message) from error
        for stage, delay_ms in zip(messages, delays, strict=True):
            self.emit_after("enqueue", stage, delay_ms)
        return message

    def get_results_backend(self) -> WarrenResults:
        """Return the backend that asks the control plane."""
        return self._results

    def close(self) -> None:
        """Close the connections."""
        with self._connecting:
            if self._connected is not None:
                self._connected.close()
                self._connected = None

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Call the before-hooks; raises InvalidInput when it is a dramatiq worker that starts."""
        if signal == "worker_boot":
            raise InvalidInput(_NO_WORKER)
        super().emit_before(signal, *args, **kwargs)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30_000) -> Consumer:
        """Refuse: there is nothing to consume here."""
        raise InvalidInput(_NO_WORKER)

    def flush(self, queue_name: str) -> None:
        """Refuse: tasks are not thrown away by the queue."""
        raise InvalidInput("Warren flushes no queues: cancel tasks with `warren task cancel`")

    def flush_all(self) -> None:
        """Refuse, like `flush`."""
        self.flush("")

    def join(self, queue_name: str, *, timeout: int | None = None) -> None:
        """Refuse: other programs use the queue too."""
        raise InvalidInput(
            "Warren's queues are shared and never empty for sure: wait for messages, groups or pipelines"
        )

    def _api(self) -> ApiClient:
        with self._connecting:
            if self._connected is None:
                profile = resolve_profile(self._url, None, None, self._environ)
                self._connected = ApiClient(profile.url, profile.key)
            return self._connected

    def _pool(self, queue_name: str) -> str:
        if queue_name in self._pools:
            return self._pools[queue_name]
        try:
            return check_name(queue_name, "queue")
        except InvalidName as error:
            raise InvalidInput(
                f"{error.message}, or name its pool: WarrenBroker(pools={{{queue_name!r}: 'some-pool'}})"
            ) from error

    def _stages(self, messages: Sequence[Message[Any]]) -> list[Stage]:
        defaults = middleware_options(self.middleware)
        stages = []
        before: Mapping[str, Any] = {}
        for message in messages:
            stages.append(self._stage(message, defaults, before))
            actor = self.actors.get(message.actor_name)
            before = actor.options if actor else {}
        return stages

    def _stage(self, message: Message[Any], defaults: Mapping[str, Any], before: Mapping[str, Any]) -> Stage:
        """Return a stage; `before` are the options of the actor before it."""
        if message.queue_name not in self.queues:
            raise QueueNotFound(message.queue_name)
        if unknown := message.options.keys() - self.actor_options - OF_MESSAGES:
            raise InvalidInput(f"message for {message.actor_name!r}: Warren cannot carry {', '.join(sorted(unknown))}")
        actor = self.actors.get(message.actor_name)
        return Stage(
            message=message,
            options={**defaults, **(actor.options if actor else {}), **message.options},
            pool=self._pool(message.queue_name),
            priority=actor.priority if actor else 0,
            pass_result=not (message.options.get("pipe_ignore") or before.get("pipe_ignore")),
        )


def _chain(message: Message[Any]) -> Iterator[Message[Any]]:
    """Yield a message and all that it is piped into."""
    yield message
    while (target := message.options.get("pipe_target")) is not None:
        message = Message(**target)
        yield message
