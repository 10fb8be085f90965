"""What a command's ending means: its outcome."""

from typing import Any

from protocols.outcome import Outcome
from protocols.states import Effect, FailureClass
from worker.actions.ssh.execute import Ending, Stream


def outcome_of(ending: Ending, address: str) -> Outcome:
    """Return the outcome of a command that was left to its end."""
    if ending.exit_signal is not None:
        return Outcome.failed(
            FailureClass.EXIT,
            "signalled",
            f"ended by signal {ending.exit_signal}{_last_words(ending.stderr)}",
            effect=Effect.DONE,
            result=_result("signalled", ending),
        )
    if ending.exit_status is None:
        return Outcome.failed(
            FailureClass.PROVIDER,
            "connection_lost",
            f"the connection to {address} was lost while the command may have been running",
            effect=Effect.MAYBE,
            result=_result("lost_unknown", ending),
        )
    if ending.exit_status != 0:
        return Outcome.failed(
            FailureClass.EXIT,
            "exit_status",
            f"exit status {ending.exit_status}{_last_words(ending.stderr)}",
            effect=Effect.DONE,
            result=_result("exited", ending),
        )
    return Outcome.success(_result("exited", ending))


def outcome_of_stopped(ending: Ending | None, address: str) -> Outcome:
    """Return the outcome of a command that was ended on request; None for one of which nothing is known."""
    if ending is None:
        return Outcome.cancelled(
            f"{address} did not tell whether the command has ended",
            effect=Effect.MAYBE,
            result={"outcome": "kill_unconfirmed"},
        )
    if not ending.known:
        return Outcome.cancelled(
            f"{address} did not tell whether the command has ended",
            effect=Effect.MAYBE,
            result=_result("kill_unconfirmed", ending),
        )
    if not ending.stopped:
        return Outcome.cancelled(
            "the command had ended by itself", effect=Effect.DONE, result=outcome_of(ending, address).result
        )
    return Outcome.cancelled(
        "the command was ended on the host", effect=Effect.DONE, result=_result("cancelled_killed", ending)
    )


def not_started() -> Outcome:
    """Return the outcome of a cancel that came before the command was sent."""
    return Outcome.cancelled(
        "cancelled before the command was sent", effect=Effect.NONE, result={"outcome": "not_started"}
    )


def _result(outcome: str, ending: Ending) -> dict[str, Any]:
    result: dict[str, Any] = {
        "outcome": outcome,
        "stdout_tail": _text(ending.stdout),
        "stderr_tail": _text(ending.stderr),
        "stdout_bytes": ending.stdout.length,
        "stderr_bytes": ending.stderr.length,
        "duration_s": round(ending.duration_s, 3),
    }
    if ending.exit_status is not None:
        result["exit_status"] = ending.exit_status
    if ending.exit_signal is not None:
        result["signal"] = ending.exit_signal
    return result


def _text(stream: Stream) -> str:
    return stream.tail.decode(errors="replace")


def _last_words(stderr: Stream) -> str:
    lines = _text(stderr).split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f": {last[:300]}" if last else ""
