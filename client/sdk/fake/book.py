"""What the stand-in control plane knows: tasks, their journal, and the dead letters, all under one lock."""

import heapq
import threading
import time
from collections.abc import Sequence
from typing import Any

from client.http import Json
from client.sdk.fake.form import TaskChange, TaskForm
from client.sdk.fake.task import Chunk, FakeTask, moment
from protocols.errors import Conflict, IdempotencyMismatch, NotFound
from protocols.ids import DEAD_LETTER, EXECUTION, TASK, new_id
from protocols.names import BuiltinAction
from protocols.outcome import Outcome
from protocols.states import CauseOfDeath, Delivery, Effect, FailureClass, OutcomeKind, TaskState

_NEVER_RETRIED = frozenset({FailureClass.REQUEST, FailureClass.CREDENTIAL, FailureClass.QUOTA})
_MANUAL = Outcome.failed(FailureClass.LOCAL, "manual", "given up by hand", effect=Effect.NONE)


class Book:
    """Keeps the tasks. Safe for use from many threads; `changed` is held while anything is looked at or changed."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.tasks: dict[str, FakeTask] = {}
        self.events: list[Json] = []
        self.letters: dict[str, Json] = {}
        self.submitted: list[Json] = []
        self.held = False
        self.closed = False
        self._waiting: list[tuple[float, str]] = []
        self._keys: dict[str, tuple[Json, str]] = {}

    def submit(self, forms: Sequence[TaskForm], key: str | None) -> list[tuple[FakeTask, bool]]:
        """Make tasks of forms, each with whether it is new; raises IdempotencyMismatch or NotFound."""
        with self.changed:
            said = [form.model_dump(mode="json", exclude_unset=True) for form in forms]
            keys = [key if len(forms) == 1 else f"{key}:{number}" for number in range(len(forms))] if key else []
            for one, told in zip(keys, said, strict=False):
                if self._keys.get(one, (told, ""))[0] != told:
                    raise IdempotencyMismatch(hint="use a new Idempotency-Key for another request")
            for form in forms:
                if form.parent_id is not None:
                    self.find(form.parent_id)
            return [
                self._submit_one(form, told, keys[number] if keys else None)
                for number, (form, told) in enumerate(zip(forms, said, strict=True))
            ]

    def _submit_one(self, form: TaskForm, said: Json, key: str | None) -> tuple[FakeTask, bool]:
        if key in self._keys:
            return self.tasks[self._keys[key][1]], False
        task = self._add(form, form.parent_id)
        self.submitted.append(said)
        if key is not None:
            self._keys[key] = (said, task.id)
        return task, True

    def find(self, task_id: str) -> FakeTask:
        """Return the task with this id; raises NotFound."""
        with self.changed:
            if task_id not in self.tasks:
                raise NotFound(f"there is no task {task_id[:80]!r}")
            return self.tasks[task_id]

    def change(self, task_id: str, change: TaskChange) -> FakeTask:
        """Change what is said of a task; raises Conflict for what matters to a worker once one has begun."""
        with self.changed:
            task = self.find(task_id)
            early = change.model_fields_set - {"title", "description"}
            if early and task.state not in (TaskState.SCHEDULED, TaskState.QUEUED):
                raise Conflict(f"{', '.join(sorted(early))} cannot change any more: the task is {task.state}")
            said = {name: getattr(change, name) for name in change.model_fields_set}
            task.form = task.form.model_copy(update=said)
            return task

    def cancel(self, task_id: str, reason: str) -> FakeTask:
        """Cancel a task; one that runs is cancelled at once too, and what it returns goes nowhere."""
        with self.changed:
            task = self.find(task_id)
            if task.finished:
                raise Conflict(f"the task has finished: it is {task.state}")
            if task.state is TaskState.RUNNING:
                task.cancel_requested = True
                self._tell(task, "task.cancel_requested", {"reason": reason})
            self._finish(task, TaskState.CANCELLED, "task.cancelled", {"reason": reason})
            return task

    def retry(self, task_id: str) -> FakeTask:
        """Run a dead task again; raises Conflict for any other."""
        with self.changed:
            task = self.find(task_id)
            if task.state is not TaskState.DEAD:
                raise Conflict(f"the task is not dead: it is {task.state}")
            self._resolve(task_id, "redriven")
            task.tries, task.cause, task.cancel_requested = 0, None, False
            task.finished_at, task.due_at, task.state = None, time.time(), TaskState.SCHEDULED
            self._tell(task, "task.redriven")
            self._offer(task)
            return task

    def letter(self, letter_id: str) -> Json:
        """Return a dead letter as it is told; raises NotFound."""
        with self.changed:
            if letter_id not in self.letters:
                raise NotFound(f"there is no dead letter {letter_id[:80]!r}")
            kept = self.letters[letter_id]
            return {**kept, "task_state": self.tasks[kept["task_id"]].state.value}

    def open_letter(self, letter_id: str) -> Json:
        """Return a dead letter that nobody has dealt with; raises NotFound or Conflict."""
        with self.changed:
            letter = self.letter(letter_id)
            if letter["resolved_at"] is not None:
                raise Conflict(f"this dead letter was dealt with before: {letter['resolution']}")
            return letter

    def discard(self, letter_id: str) -> None:
        """Take a dead letter off the list."""
        with self.changed:
            self._resolve(self.open_letter(letter_id)["task_id"], "discarded")

    def give_up(self, task_id: str) -> Json:
        """Make an unfinished task that nobody runs a dead letter; returns that."""
        with self.changed:
            task = self.find(task_id)
            if task.finished or task.state is TaskState.RUNNING:
                raise Conflict(f"the task is {task.state}")
            task.outcome = _MANUAL
            return self._die(task, CauseOfDeath.MANUAL)

    def next(self) -> FakeTask | None:
        """Wait for a task that may run now and begin it; None when the book is closed."""
        with self.changed:
            while not self.closed:
                task = None if self.held else self._pop()
                if task is not None:
                    return task
                due_in = self._waiting[0][0] - time.time() if self._waiting and not self.held else None
                self.changed.wait(None if due_in is None else max(0.001, due_in))
            return None

    def write(self, task: FakeTask, execution_id: str, stream: str, data: bytes) -> None:
        """Append to what an execution has written."""
        with self.changed:
            if task.execution_id == execution_id and task.state is TaskState.RUNNING:
                task.output.append(Chunk(task.attempt, execution_id, stream, task.written(), data))
                self.changed.notify_all()

    def settle(self, task: FakeTask, execution_id: str, outcome: Outcome) -> None:
        """Let an execution end, unless its task went on without it."""
        with self.changed:
            if task.execution_id != execution_id or task.state is not TaskState.RUNNING:
                return
            task.outcome = outcome
            if outcome.kind is OutcomeKind.SUCCEEDED:
                self._finish(task, TaskState.SUCCEEDED, "task.succeeded")
                self._follow(task)
                return
            cause = _cause(task, outcome)
            if cause is not None:
                self._die(task, cause)
                return
            asked_s = outcome.failure.retry_after_s if outcome.failure else None
            task.state, task.due_at = TaskState.SCHEDULED, time.time() + (asked_s or 0.0)
            self._tell(task, "task.retrying")
            self._offer(task)

    def hold(self, held: bool) -> None:
        """Begin nothing from now on, or go on."""
        with self.changed:
            self.held = held
            self.changed.notify_all()

    def close(self) -> None:
        """Wake everyone who waits, for the last time."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def _add(self, form: TaskForm, parent_id: str | None) -> FakeTask:
        now = time.time()
        task = FakeTask(id=new_id(TASK), form=form, created_at=now, due_at=now + form.delay_s, parent_id=parent_id)
        self.tasks[task.id] = task
        self._tell(task, "task.created", {"action": form.runs, "lane": form.lane})
        self._offer(task)
        return task

    def _offer(self, task: FakeTask) -> None:
        """Put a scheduled task in line, into its lane's window if it is due."""
        if task.due_at <= time.time():
            task.state = TaskState.QUEUED
            task.attempt += 1
            self._tell(task, "task.queued")
        heapq.heappush(self._waiting, (task.due_at, task.id))
        self.changed.notify_all()

    def _pop(self) -> FakeTask | None:
        while self._waiting and self._waiting[0][0] <= time.time():
            due_at, task_id = heapq.heappop(self._waiting)
            task = self.tasks[task_id]
            if task.due_at != due_at or task.state not in (TaskState.SCHEDULED, TaskState.QUEUED):
                continue  # it was cancelled, or retried, since
            if task.state is TaskState.SCHEDULED:
                task.attempt += 1
                self._tell(task, "task.queued")
            task.state, task.execution_id = TaskState.RUNNING, new_id(EXECUTION)
            task.started_at = time.time()
            self._tell(task, "task.started")
            return task
        return None

    def _follow(self, task: FakeTask) -> None:
        """Make the first step of a task's plan a task, with the rest as its own plan."""
        if not task.form.then:
            return
        step, *rest = task.form.then
        args = [*step.args, *([_passed_on(task)] if step.pass_result else [])]
        same = {name: getattr(task.form, name) for name in ("pool", "priority", "max_attempts", "timeout_s")}
        fields = step.model_dump(exclude_none=True, exclude={"pass_result", "args"})
        self._add(TaskForm(**{**same, **fields}, args=args, then=rest), task.id)

    def _die(self, task: FakeTask, cause: CauseOfDeath) -> Json:
        task.cause = cause
        self._finish(task, TaskState.DEAD, "task.dead", {"cause": cause.value})
        letter_id = new_id(DEAD_LETTER)
        self.letters[letter_id] = {
            "id": letter_id,
            "task_id": task.id,
            "action": task.form.runs,
            "lane": task.form.lane,
            "cause": cause.value,
            "error": task.error(),
            "attempts": task.attempt,
            "tries": task.tries,
            "dead_at": moment(time.time()),
            "resolved_at": None,
            "resolution": None,
        }
        return self.letter(letter_id)

    def _resolve(self, task_id: str, how: str) -> None:
        for letter in self.letters.values():
            if letter["task_id"] == task_id and letter["resolved_at"] is None:
                letter |= {"resolved_at": moment(time.time()), "resolution": how}

    def _finish(self, task: FakeTask, state: TaskState, event: str, data: Json | None = None) -> None:
        task.state, task.finished_at = state, time.time()
        self._tell(task, event, data)

    def _tell(self, task: FakeTask, kind: str, data: Json | None = None) -> None:
        self.events.append(
            {
                "id": len(self.events) + 1,
                "type": kind,
                "at": moment(time.time()),
                "task_id": task.id,
                "attempt": task.attempt,
                "execution_id": task.execution_id,
                "worker_id": "fake" if task.execution_id else None,
                "data": data or {},
            }
        )
        self.changed.notify_all()


def _cause(task: FakeTask, outcome: Outcome) -> CauseOfDeath | None:
    """Return why a task whose execution has failed is dead now, None if it is tried again."""
    kind = outcome.failure.failure_class if outcome.failure else FailureClass.LOCAL
    rejected = outcome.kind is OutcomeKind.REJECTED
    counts = not rejected and kind not in _NEVER_RETRIED and kind is not FailureClass.THROTTLED
    task.tries += counts
    if task.form.promise is Delivery.AT_MOST_ONCE and outcome.effect is not Effect.NONE:
        return CauseOfDeath.EFFECT_POSSIBLE
    if rejected or kind in _NEVER_RETRIED:
        return CauseOfDeath.NOT_RETRYABLE
    return CauseOfDeath.MAX_ATTEMPTS if counts and task.tries >= task.form.max_attempts else None


def _passed_on(task: FakeTask) -> Any:
    result = task.outcome.result if task.outcome else None
    return result if result is None or task.form.runs in tuple(BuiltinAction) else result.get("value")
