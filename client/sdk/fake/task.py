"""One task of the stand-in control plane, and what it tells of it."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from client.http import Json
from client.sdk.fake.form import TaskForm
from protocols.outcome import Outcome
from protocols.states import FINISHED_STATES, CauseOfDeath, TaskState


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an attempt's output; offsets count bytes over all of its streams."""

    attempt: int
    execution_id: str
    stream: str
    offset: int
    data: bytes


@dataclass(slots=True, kw_only=True)
class FakeTask:
    """A task; times are seconds since the epoch."""

    id: str
    form: TaskForm
    created_at: float
    due_at: float
    parent_id: str | None = None
    state: TaskState = TaskState.SCHEDULED
    attempt: int = 0
    tries: int = 0
    cancel_requested: bool = False
    execution_id: str | None = None
    wait_reason: str | None = None
    outcome: Outcome | None = None
    cause: CauseOfDeath | None = None
    started_at: float | None = None
    finished_at: float | None = None
    output: list[Chunk] = field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether it has succeeded, is dead or was cancelled."""
        return self.state in FINISHED_STATES

    def written(self) -> int:
        """Return how many bytes the present attempt has written."""
        return sum(len(chunk.data) for chunk in self.output if chunk.attempt == self.attempt)

    def error(self) -> Json | None:
        """Return why the last execution failed, and why the task is dead."""
        failure = self.outcome.failure if self.outcome else None
        if failure is None:
            return None
        return {
            "class": failure.failure_class.value,
            "code": failure.code,
            "message": failure.message,
            "cause": self.cause.value if self.cause else None,
        }

    def summary(self) -> Json:
        """Return it as in a list."""
        form = self.form
        said = form.model_dump(mode="json", exclude={"action", "args", "input", "delay_s", "then"})
        usage = self.outcome.usage if self.outcome else None
        return {
            **said,
            "id": self.id,
            "state": self.state.value,
            "status": self.state.value,
            "action": form.runs,
            "lane": form.lane,
            "delivery": form.promise.value,
            "parent_id": self.parent_id,
            "attempt": self.attempt,
            "tries": self.tries,
            "due_at": moment(self.due_at),
            "wait_reason": self.wait_reason,
            "cancel_requested": self.cancel_requested,
            "execution_id": self.execution_id,
            "worker_id": "fake" if self.execution_id else None,
            "usage": asdict(usage) if usage else None,
            "error": self.error(),
            "created_at": moment(self.created_at),
            "started_at": moment(self.started_at),
            "finished_at": moment(self.finished_at),
            "created_by": "fake",
        }

    def view(self) -> Json:
        """Return all of it."""
        result = self.outcome.result if self.outcome else None
        return {**self.summary(), "input": self.form.input, "args": self.form.args, "result": result}


def moment(seconds: float | None) -> str | None:
    """Return a time as the API tells it."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
