"""Results for dramatiq programs: `message.get_result()` asks the control plane, which keeps all of them."""

import time
from collections.abc import Callable
from typing import Any

from dramatiq import Message
from dramatiq.common import compute_backoff
from dramatiq.errors import ConnectionFailed
from dramatiq.results import ResultBackend, ResultFailure, ResultMissing, ResultTimeout
from dramatiq.results.backend import BACKOFF_FACTOR, DEFAULT_TIMEOUT

from client.dramatiq_forms import KEY
from client.http import ApiClient, Json
from protocols.errors import Unavailable
from protocols.states import FINISHED_STATES, TaskState

_EXCEPTION = "exception"
"""The code of a failure that is a function's exception; its message begins with the exception's name."""


class WarrenResults(ResultBackend):
    """Reads the results of tasks by the Idempotency-Keys under which their messages were sent."""

    def __init__(self, api: Callable[[], ApiClient]) -> None:
        super().__init__()
        self._api = api

    def get_result(self, message: Message[Any], *, block: bool = False, timeout: int | None = None) -> Any:
        """Return what the function returned; with `block`, wait for it up to `timeout` milliseconds (10 s).

        Raises ResultMissing or, when it waited, ResultTimeout; ResultFailure for a task that is dead or cancelled;
        ConnectionFailed if the control plane cannot be reached, with `block` only once the time is over.
        """
        end = time.monotonic() + (DEFAULT_TIMEOUT if timeout is None else timeout) / 1000
        attempts = 0
        while True:
            left_s = end - time.monotonic() if block else 0.0
            task = self._finished(message, patient=left_s > 0)
            if task is not None:
                return _result(task)
            if not block:
                raise ResultMissing(message)
            if left_s <= 0:
                raise ResultTimeout(message)
            attempts, delay_ms = compute_backoff(attempts, factor=BACKOFF_FACTOR)
            time.sleep(min(delay_ms / 1000, left_s))

    def _finished(self, message: Message[Any], *, patient: bool) -> Json | None:
        key = message.options.get(KEY, message.message_id)
        try:
            rows = self._api().get("/tasks", {"idempotency_key": key})["data"]
            if not rows or rows[0]["state"] not in FINISHED_STATES:
                return None
            return self._api().get(f"/tasks/{rows[0]['id']}")
        except Unavailable as error:
            if patient:
                return None
            raise ConnectionFailed(error.message) from error


def _result(task: Json) -> Any:
    if task["state"] == TaskState.SUCCEEDED:
        return (task["result"] or {}).get("value")
    error = task["error"] or {}
    code, message = error.get("code") or task["state"], error.get("message") or f"the task is {task['state']}"
    if code == _EXCEPTION:
        kind, _, text = message.partition(": ")
        raise ResultFailure(f"actor raised {message}", kind, text)
    raise ResultFailure(message, code, message)
