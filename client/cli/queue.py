"""`warren queue`: what waits where."""

from client.cli.commands import group
from client.cli.noun import Noun
from client.cli.options import ApiOptions, Reason
from client.render import Column, Fit, age, count, field, queue_state

_COUNTED = ("waiting", "delayed")


app = group("queue", "warren queue list\nwarren queue pause q.t.default.openai --reason 'the provider is ill'")
queue = Noun(
    app=app,
    name="queue",
    path="/queues",
    columns=[
        field("name"),
        count("waiting", _COUNTED),
        age("oldest_waiting_at", "oldest", Fit.SPARE),
        field("running"),
        field("consumers", "workers", Fit.SPARE),
        count("delayed", _COUNTED, Fit.SPARE),
        field("queued", fit=Fit.SPARE),
        Column("state", queue_state),
        field("reason", fit=Fit.CUT),
    ],
    empty="no queue yet: one comes with the first task or worker",
    sample="q.t.default.ssh",
    by="Its name, as `warren queue list` shows it.",
)
queue.lists()
queue.shows()


@queue.verb("pause", "--reason 'maintenance'")
def pause(api: ApiOptions, reference: str, reason: Reason = None) -> None:
    """Start nothing more of it; what runs goes on. When this answers, it holds."""
    with api.connect() as client:
        paused = client.post(queue.at(reference, "pause"), {"reason": reason} if reason else None)
    api.printer.done(f"queue {reference} is paused", paused)


@queue.verb("resume")
def resume(api: ApiOptions, reference: str) -> None:
    """Start what waits in it again."""
    with api.connect() as client:
        resumed = client.post(queue.at(reference, "resume"))
    api.printer.done(f"queue {reference} runs", resumed)
