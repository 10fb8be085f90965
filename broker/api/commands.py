"""`/ssh-connections/{ref}/test` and `/execute`: try a connection out, or run a command and see what it says."""

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from broker.api.auth import Admin, Control
from broker.api.fields import Reference
from broker.api.strict_json import StrictRoute
from broker.api.tasks import read_task
from broker.commands import Order
from broker.fields import A_NUMBER, PoolName
from broker.views import TaskView, View
from protocols.names import DEFAULT_POOL
from protocols.states import FINISHED_STATES, TaskState

MAX_COMMAND_BYTES = 64 * 1024
_TEST_COMMAND = "true"

router = APIRouter(prefix="/ssh-connections", tags=["SSH connections"], route_class=StrictRoute)


def _bounded(command: str) -> str:
    if len(command.encode()) > MAX_COMMAND_BYTES:
        raise ValueError(f"write up to {MAX_COMMAND_BYTES:,} bytes; a longer script goes into the `stdin` of a task")
    return command


class ConnectionTestForm(BaseModel):
    """Who shall try, and for how long."""

    model_config = ConfigDict(
        extra="forbid", hide_input_in_errors=True, json_schema_extra={"examples": [{"timeout_s": 10}]}
    )

    timeout_s: Annotated[float, Field(ge=1, le=120, allow_inf_nan=False), A_NUMBER] = 30.0
    pool: PoolName = DEFAULT_POOL
    worker: Reference | None = None


class ExecuteForm(BaseModel):
    """A command for the login shell of the connection's user."""

    model_config = ConfigDict(
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"command": "uptime", "timeout_s": 60, "wait_s": 10}]},
    )

    command: Annotated[str, Field(min_length=1), AfterValidator(_bounded)]
    timeout_s: Annotated[float, Field(gt=0, le=30 * 86400, allow_inf_nan=False), A_NUMBER] | None = None
    """Of the command; without it the setting `tasks.default_timeout_s` holds."""
    wait_s: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False), A_NUMBER] = 60.0
    """How long the answer may take; the command goes on."""
    pool: PoolName = DEFAULT_POOL
    worker: Reference | None = None


class ProblemView(View):
    """Why a test failed."""

    code: str
    message: str
    hint: str | None


class ConnectionTestAnswer(View):
    """How a test ended."""

    ok: bool
    task_id: str
    state: TaskState
    duration_ms: int | None
    error: ProblemView | None


class ExecuteAnswer(View):
    """A command's task, and what came of it if it has finished."""

    task: TaskView
    exit_status: int | None
    stdout: str
    stderr: str
    truncated: bool
    """Whether more was written than is shown here; `/tasks/{id}/output` has all that is kept."""


@router.post("/{reference}/test", operation_id="testConnection")
async def try_out(
    control: Control, admin: Admin, reference: str, form: ConnectionTestForm | None = None
) -> ConnectionTestAnswer:
    """Have a worker log in and run `true`; the answer tells why if that fails."""
    form = form or ConnectionTestForm()
    tested = await control.commands.test(
        Order(
            connection=reference,
            command=_TEST_COMMAND,
            timeout_s=form.timeout_s,
            pool=form.pool,
            worker=form.worker,
            actor=admin.name,
        )
    )
    return ConnectionTestAnswer(
        ok=tested.problem is None,
        task_id=tested.task_id,
        state=tested.state,
        duration_ms=tested.duration_ms,
        error=None if tested.problem is None else ProblemView.model_validate(tested.problem),
    )


@router.post(
    "/{reference}/execute",
    operation_id="executeOnConnection",
    responses={202: {"model": ExecuteAnswer, "description": "It goes on: `Location` is its task"}},
)
async def execute(
    control: Control, admin: Admin, reference: str, form: ExecuteForm, response: Response
) -> ExecuteAnswer:
    """Run a command and return its exit status and output; 202 if it goes on after `wait_s`."""
    order = Order(
        connection=reference,
        command=form.command,
        timeout_s=form.timeout_s or control.preferences.current.tasks.default_timeout_s,
        pool=form.pool,
        worker=form.worker,
        actor=admin.name,
    )
    task = await read_task(control, await control.commands.execute(order, form.wait_s))
    if TaskState(task.state) not in FINISHED_STATES:
        response.status_code = 202
        response.headers["Location"] = f"/api/v1/tasks/{task.id}"
        return ExecuteAnswer(task=task, exit_status=None, stdout="", stderr="", truncated=False)
    output = await control.commands.output(task.id)
    return ExecuteAnswer(
        task=task,
        exit_status=(task.result or {}).get("exit_status"),
        stdout=output.stdout,
        stderr=output.stderr,
        truncated=output.truncated,
    )
