"""What tasks do in the stand-in: functions of the test itself, and outcomes that it has written down."""

import asyncio
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from client.sdk.fake.form import TaskForm
from protocols.names import BuiltinAction
from protocols.outcome import Outcome, Usage
from protocols.states import Effect, FailureClass

Write = Callable[[str, bytes], None]
_STREAMS = {BuiltinAction.LLM_CHAT.value: "text"}


@dataclass(slots=True, kw_only=True)
class Scripted:
    """One written down outcome; `times` counts down, None is for ever."""

    action: str
    output: Sequence[str]
    result: Any
    error: str | Outcome | None
    when: Callable[[Mapping[str, Any]], bool]
    times: int | None


class Script:
    """Performs tasks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._functions: dict[str, Callable[..., Any]] = {}
        self._scripted: list[Scripted] = []

    def declare(self, name: str, function: Callable[..., Any]) -> None:
        """Have tasks of this action call a function."""
        with self._lock:
            self._functions[name] = function

    def add(self, scripted: Scripted) -> None:
        """Have tasks end as written down: first what holds for so many times, in order, then the newest of the rest."""
        with self._lock:
            self._scripted.append(scripted)

    def perform(self, form: TaskForm, write: Write) -> Outcome:
        """Carry a task out and return how it ended; never raises."""
        scripted = self._find(form)
        if scripted is not None:
            return _play(scripted, form, write)
        function = self._functions.get(form.runs)
        if function is None:
            return _unknown(form)
        try:
            value = function(*form.args, **form.input)
            return Outcome.returned(asyncio.run(value) if inspect.iscoroutine(value) else value)
        except (Exception, SystemExit) as error:
            return Outcome.raised(error)

    def _find(self, form: TaskForm) -> Scripted | None:
        said = form.model_dump(mode="json")
        with self._lock:
            fitting = [one for one in self._scripted if one.action == form.runs and one.times != 0 and one.when(said)]
            counted = next((one for one in fitting if one.times is not None), None)
            if counted is not None and counted.times is not None:
                counted.times -= 1
            return counted or next(reversed(fitting), None)


def _play(scripted: Scripted, form: TaskForm, write: Write) -> Outcome:
    for piece in scripted.output:
        write(_STREAMS.get(form.runs, "stdout"), piece.encode())
    text = "".join(scripted.output)
    if isinstance(scripted.error, Outcome):
        return scripted.error
    if scripted.error is not None:
        kind = FailureClass.PROVIDER if form.runs in tuple(BuiltinAction) else FailureClass.EXIT
        return Outcome.failed(kind, "scripted", scripted.error, effect=Effect.MAYBE)
    if form.runs == BuiltinAction.LLM_CHAT:
        return _answered(form, text, scripted.result or {})
    if form.runs == BuiltinAction.SSH_EXEC:
        return _exited(text, scripted.result or {})
    return Outcome.returned(scripted.result)


def _answered(form: TaskForm, text: str, result: Mapping[str, Any]) -> Outcome:
    facts = {"text": text, "finish_reason": "stop", "model": form.input.get("model"), "provider": form.provider}
    asked = str(form.instructions or form.input.get("prompt") or form.input.get("messages"))
    usage = Usage(input_tokens=len(asked.split()), output_tokens=len(text.split()), estimated=True)
    return Outcome.success({**facts, "response_id": None, **result}, usage=usage)


def _exited(text: str, result: Mapping[str, Any]) -> Outcome:
    facts = {"outcome": "exited", "stdout_tail": text, "stderr_tail": "", "stdout_bytes": len(text.encode())}
    whole = {**facts, "stderr_bytes": 0, "duration_s": 0.0, "exit_status": 0, **result}
    status = whole["exit_status"]
    if status == 0:
        return Outcome.success(whole)
    said = str(whole["stderr_tail"]).strip()
    message = f"exit status {status}" + (f": {said.splitlines()[-1]}" if said else "")
    return Outcome.failed(FailureClass.EXIT, "exit_status", message, effect=Effect.DONE, result=whole)


def _unknown(form: TaskForm) -> Outcome:
    if form.runs in tuple(BuiltinAction):
        return Outcome.rejected(
            "not_scripted", f"no outcome of {form.runs} is written down: `fake.on({form.runs!r}, …)`"
        )
    return Outcome.rejected("unknown_action", f"action {form.runs[:80]!r} is not installed on this worker")
