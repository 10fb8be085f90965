"""`warren whoami`: as whom the control plane knows the user."""

from client.cli.commands import alone
from client.cli.options import ApiOptions, expanded


@expanded
def whoami(api: ApiOptions) -> None:
    """Show whom the control plane takes you for."""
    with api.connect() as client:
        api.printer.record({"url": client.url, **client.get("/auth/whoami")})


app = alone(whoami, "warren whoami")
