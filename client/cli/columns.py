"""How a list of tasks looks, wherever one is shown."""

from client.render import Column, Fit, age, field

TASKS = (
    field("id"),
    field("state"),
    field("action", fit=Fit.SPARE),
    field("tries", fit=Fit.SPARE),
    age("created_at", "age"),
    Column("title", lambda row: row.get("title") or (row.get("error") or {}).get("message"), Fit.CUT),
)
