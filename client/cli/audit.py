"""`warren audit`: who changed what."""

from client.cli.commands import group
from client.cli.noun import Noun
from client.render import Fit, age, field

app = group("audit", "warren audit list -n 20")
Noun(
    app=app,
    name="audit",
    path="/admin/audit",
    columns=[
        age("at", "age"),
        field("actor"),
        field("action"),
        field("object", fit=Fit.CUT),
        field("data", fit=Fit.CUT),
    ],
    empty="nobody has changed anything yet",
    sample="",
    many="who changed what, newest first",
    named=False,
).lists(example="-n 20")
