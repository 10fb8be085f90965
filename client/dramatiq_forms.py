"""What a dramatiq message becomes: the form of a task. What a row cannot carry is refused, never ignored."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dramatiq import Message
from dramatiq.middleware import (
    AgeLimit,
    AsyncIO,
    Callbacks,
    GroupCallbacks,
    Middleware,
    Pipelines,
    Retries,
    ShutdownNotifications,
    TimeLimit,
)
from dramatiq.middleware.retries import DEFAULT_MAX_BACKOFF, DEFAULT_MIN_BACKOFF
from dramatiq.results import Results

from protocols.errors import InvalidInput

MAX_ATTEMPTS = 100
MAX_TIMEOUT_S = 30 * 86400.0
KEY = "warren_key"
"""The option that holds a later stage's Idempotency-Key; everything else has its message id as its key."""

_BACKOFF = "the control plane spaces retries, by WARREN_RETRY_BASE_S and WARREN_RETRY_CAP_S"
_DEAD = "what has failed for good is a dead letter: see `warren dead-letter list`"
REFUSED: Mapping[str, str] = {
    "retry_when": "a function that decides about retries has no place in a row: set max_retries",
    "throws": "classes of exceptions have no place in a row: catch them in the function, or set max_retries=0",
    "min_backoff": _BACKOFF,
    "max_backoff": _BACKOFF,
    "on_retry_exhausted": _DEAD,
    "on_failure": _DEAD,
    "on_success": "make the other actor the next stage of a pipeline",
    "notify_shutdown": "a worker that stops lets its functions finish, or ends them by SIGTERM after a while",
    "result_ttl": "every result is kept as long as its task",
    "broker_priority": "set the actor's priority",
    "group_completion_uuid": "wait for the group instead",
    "group_completion_callbacks": "wait for the group instead",
}
"""Options without a counterpart, and what to do in their place."""
CARRIED = frozenset({"max_retries", "time_limit", "max_age", "pipe_ignore", "store_results"})
OF_MESSAGES = frozenset({"delay", "pipe_target", KEY})
"""Further options that a message may have, but not an actor."""

_SERVED = (AgeLimit, AsyncIO, Callbacks, Pipelines, Retries, ShutdownNotifications, TimeLimit)
"""dramatiq's own middleware whose work the control plane and its workers do."""
_HERE = frozenset(
    {
        "before_declare_actor",
        "after_declare_actor",
        "before_declare_queue",
        "after_declare_queue",
        "after_declare_delay_queue",
        "before_enqueue",
        "after_enqueue",
    }
)
"""Hooks that are called where messages are sent."""
_ELSEWHERE = tuple(
    name
    for name in dir(Middleware)
    if name == "forks" or (name.startswith(("before_", "after_")) and name not in _HERE)
)
_INSTEAD: Mapping[type[Middleware], str] = {
    Results: "leave it out, Warren keeps every result: message.get_result() works without it",
    GroupCallbacks: "leave it out and wait for the group",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A message, or a later stage of its pipeline, with all that decides what becomes of it."""

    message: Message[Any]
    options: Mapping[str, Any]
    """The message's over its actor's over the middleware's."""
    pool: str
    priority: int
    pass_result: bool = True
    """Whether it gets the result of the stage before it."""


def task_form(stages: Sequence[Stage], delay_ms: float | None) -> dict[str, Any]:
    """Return the form of a message and what it is piped into; raises InvalidInput for what no row can carry."""
    first, *rest = stages
    form = _form(first)
    form["delay_s"] = max(delay_ms or 0, first.options.get("delay") or 0) / 1000
    if max_age := first.options.get("max_age"):
        end = datetime.fromtimestamp((first.message.message_timestamp + max_age) / 1000, UTC)
        form["deadline"] = end.isoformat()
    if rest:
        form["then"] = [_step(stage) for stage in rest]
    return form


def check_options(options: Mapping[str, Any], where: str) -> None:
    """Raise InvalidInput for options that no row can carry."""
    for name, instead in REFUSED.items():
        if options.get(name):
            raise InvalidInput(f"{where}: Warren cannot carry {name}: {instead}")
    _max_attempts(options, where)
    _timeout_s(options, where)


def check_middleware(middleware: Middleware) -> None:
    """Raise InvalidInput for middleware that would work in dramatiq's worker, since there is none."""
    where = f"middleware {type(middleware).__name__}"
    if type(middleware) in _SERVED:
        check_options(middleware_options([middleware]), where)
        return
    hooks = [name for name in _ELSEWHERE if getattr(type(middleware), name) is not getattr(Middleware, name)]
    if hooks:
        otherwise = f"{hooks[0]} would run in dramatiq's worker, and Warren's workers call no middleware"
        raise InvalidInput(f"{where}: {_INSTEAD.get(type(middleware), otherwise)}")


def middleware_options(middleware: Sequence[Middleware]) -> dict[str, Any]:
    """Return the options that hold where neither actor nor message says otherwise."""
    # As in dramatiq: without Retries one try, without TimeLimit no limit.
    options: dict[str, Any] = {"max_retries": 0, "time_limit": math.inf}
    for one in middleware:
        if isinstance(one, Retries):
            options |= {"max_retries": one.max_retries, "retry_when": one.retry_when}
            options["min_backoff"] = one.min_backoff != DEFAULT_MIN_BACKOFF
            options["max_backoff"] = one.max_backoff != DEFAULT_MAX_BACKOFF
        elif isinstance(one, TimeLimit):
            options["time_limit"] = one.time_limit
        elif isinstance(one, AgeLimit):
            options["max_age"] = one.max_age
        elif isinstance(one, ShutdownNotifications):
            options["notify_shutdown"] = one.notify_shutdown
    return options


def priority_name(priority: int) -> str:
    """Return the name of dramatiq's number, of which the lower is the more urgent and 0 the usual one."""
    if priority > 0:
        return "low"
    if priority == 0:
        return "normal"
    return "high" if priority > -100 else "critical"


def _form(stage: Stage) -> dict[str, Any]:
    message = stage.message
    where = f"message for {message.actor_name!r}"
    check_options(stage.options, where)
    return {
        "action": message.actor_name,
        "args": _plain(list(message.args), where),
        "input": _plain(message.kwargs, where),
        "pool": stage.pool,
        "priority": priority_name(stage.priority),
        "max_attempts": _max_attempts(stage.options, where),
        "timeout_s": _timeout_s(stage.options, where),
    }


def _step(stage: Stage) -> dict[str, Any]:
    if stage.options.get("max_age"):
        raise InvalidInput(
            f"message for {stage.message.actor_name!r}: only the first stage of a pipeline can have max_age, "
            "since nobody knows when the others begin"
        )
    delay_s = (stage.options.get("delay") or 0) / 1000
    return {**_form(stage), "delay_s": delay_s, "pass_result": stage.pass_result}


def _plain(value: Any, where: str) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"{where}: its arguments must be JSON (texts, numbers, booleans, None, lists, dictionaries): {error}"
        ) from error


def _max_attempts(options: Mapping[str, Any], where: str) -> int:
    retries = options["max_retries"]
    if not isinstance(retries, int) or not 0 <= retries < MAX_ATTEMPTS:
        raise InvalidInput(f"{where}: max_retries must be from 0 to {MAX_ATTEMPTS - 1}, it is {retries!r}")
    return retries + 1


def _timeout_s(options: Mapping[str, Any], where: str) -> float:
    limit_ms = options["time_limit"]
    if limit_ms == math.inf:
        return MAX_TIMEOUT_S
    if not isinstance(limit_ms, (int, float)) or not 0 < limit_ms <= MAX_TIMEOUT_S * 1000:
        raise InvalidInput(f"{where}: time_limit must be milliseconds of up to 30 days, or infinite")
    return limit_ms / 1000
