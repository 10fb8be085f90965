"""How the command says that something went wrong: one line, a hint, and an exit status."""

from protocols.errors import (
    AddressInUse,
    Conflict,
    Forbidden,
    InstanceLocked,
    InvalidInput,
    InvalidSettings,
    MethodNotAllowed,
    MissingExtra,
    NotFound,
    RateLimited,
    StorageUnavailable,
    Unauthenticated,
    Unavailable,
    Unreachable,
    WarrenError,
)
from protocols.names import ExitCode

_EXIT_CODES: tuple[tuple[type[WarrenError], ExitCode], ...] = (
    (InvalidSettings, ExitCode.CONFIG),
    (MissingExtra, ExitCode.CONFIG),
    (InvalidInput, ExitCode.USAGE),
    (StorageUnavailable, ExitCode.STORAGE),
    (Unavailable, ExitCode.UNREACHABLE),
    (Unauthenticated, ExitCode.REFUSED),
    (Forbidden, ExitCode.REFUSED),
    (NotFound, ExitCode.REFUSED),
    (MethodNotAllowed, ExitCode.REFUSED),
    (Conflict, ExitCode.REFUSED),
    (RateLimited, ExitCode.REFUSED),
    (InstanceLocked, ExitCode.REFUSED),
    (AddressInUse, ExitCode.REFUSED),
)
"""The first class that fits decides."""

_HINTS: tuple[tuple[type[WarrenError], str], ...] = (
    (Unreachable, "is it running? Start one here with `warren up`, or name another with --url"),
    (Unavailable, "try again in a moment"),
    (Unauthenticated, "is this the key of that control plane? Give it by WARREN_API_KEY or --key-file"),
    (Forbidden, "use a key of a role that may do this"),
)
"""For errors that bring no hint of their own."""


class TaskEnded(WarrenError):
    """A task that was waited for did not succeed; its exit status is the command's."""

    code = "task_ended"

    def __init__(self, message: str, exit_code: ExitCode, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


def exit_code(error: WarrenError) -> ExitCode:
    """Return the status with which the command ends on `error`."""
    if isinstance(error, TaskEnded):
        return error.exit_code
    return next((status for kind, status in _EXIT_CODES if isinstance(error, kind)), ExitCode.FAILED)


def explain(error: WarrenError) -> str:
    """Return the lines that tell a person about `error`, and what to do next."""
    where = f" (field {error.field})" if error.field and error.field not in error.message else ""
    lines = [f"error: {error.message}{where}"]
    hint = error.hint or next((hint for kind, hint in _HINTS if isinstance(error, kind)), None)
    if hint:
        lines.append(f"hint: {hint}")
    return "\n".join(lines)
