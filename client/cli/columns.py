"""How a list of tasks looks, wherever one is shown."""

from client.render import Column, Fit, Json, age, field


def _about(task: Json) -> str:
    """Return what tells a person which task this is: its title, else its error, else what it does and where."""
    error = task.get("error") or {}
    where = task.get("connection") or task.get("agent") or task.get("provider") or ""
    return str(task.get("title") or error.get("message") or f"{task['action']} {where}".rstrip())


TASKS = (
    field("id"),
    field("state"),
    field("action", fit=Fit.SPARE),
    field("tries", fit=Fit.SPARE),
    age("created_at", "age"),
    Column("title", _about, Fit.CUT),
)
