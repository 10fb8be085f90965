"""What can go wrong with a task that one waits for."""

from typing import TYPE_CHECKING

from protocols.errors import WarrenError

if TYPE_CHECKING:
    from client.sdk.task import TaskInfo


class TaskFailed(WarrenError):
    """The task ended without a result."""

    code = "task_failed"

    def __init__(self, task: "TaskInfo") -> None:
        ending = "was cancelled" if task.state == "cancelled" else f"is {task.state}"
        cause = f" ({task.error.cause})" if task.error and task.error.cause else ""
        detail = f": {task.error.message}" if task.error and task.error.message else ""
        super().__init__(f"task {task.id} {ending}{cause}{detail}")
        self.task = task
        """The task as it ended; its `error` says why, its `value` what there is of a result all the same."""


class TaskDead(TaskFailed):
    """The task failed for good; it is among the dead letters."""

    code = "task_dead"


class TaskCancelled(TaskFailed):
    """Someone cancelled the task."""

    code = "task_cancelled"


class WaitTimeout(WarrenError, TimeoutError):
    """What was waited for did not happen in time; it may yet."""

    code = "wait_timeout"
