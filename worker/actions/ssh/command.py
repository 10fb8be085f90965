"""What a task asks to be run, checked before anything is contacted."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from protocols.codec import first_problem
from protocols.states import FailureClass
from worker.actions.ssh.failure import NotStarted

MAX_COMMAND_BYTES = 64 * 1024
"""Beyond 128 KiB Linux refuses an argument; scripts that long travel in `stdin`."""
MAX_ENVIRONMENT_BYTES = 64 * 1024


def _shell_text(value: str) -> str:
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    if b"\0" in encoded:
        raise ValueError("must not contain a NUL character")
    if len(encoded) > MAX_COMMAND_BYTES:
        raise ValueError(f"is {len(encoded):,} bytes long, the limit is {MAX_COMMAND_BYTES:,}; use stdin for more")
    return value


def _unicode(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode") from None
    return value


ShellText = Annotated[str, AfterValidator(_shell_text)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=256)]


class Command(BaseModel):
    """A command for the login shell of the connection's user."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)

    command: Annotated[ShellText, Field(min_length=1)]
    stdin: Annotated[str, AfterValidator(_unicode)] | None = None
    """Given to the command, then end of file; without it the command reads end of file at once."""
    env: dict[VariableName, ShellText] = Field(default_factory=dict, max_length=512)
    cwd: Annotated[ShellText, Field(min_length=1)] | None = None
    """A relative one starts at the user's home."""

    @model_validator(mode="after")
    def _bounded_environment(self) -> "Command":
        size = sum(len(name) + len(value.encode()) + 2 for name, value in self.env.items())
        if size > MAX_ENVIRONMENT_BYTES:
            raise ValueError(f"env is {size:,} bytes long, the limit is {MAX_ENVIRONMENT_BYTES:,}")
        return self


def parse_command(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Command:
    """Return the command in an envelope's arguments; raises NotStarted with what was wrong with them."""
    if args:
        raise NotStarted(
            FailureClass.REQUEST, "invalid_arguments", "ssh.exec takes its arguments by name: command, stdin, env, cwd"
        )
    try:
        return Command.model_validate(dict(kwargs))
    except ValidationError as error:
        raise NotStarted(FailureClass.REQUEST, "invalid_arguments", first_problem(error)) from None
