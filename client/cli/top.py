"""`warren top`: queues, workers and rates, live."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli.commands import alone
from client.cli.options import ApiOptions, expanded
from protocols.errors import Unavailable

if TYPE_CHECKING:
    from client.http import ApiClient
    from client.top import Snapshot

ONE_FRAME_HEIGHT = 1000
PATIENCE_S = 30.0


@expanded
def top(
    api: ApiOptions,
    interval: Annotated[float, typer.Option("--interval", "-n", min=0.5, max=60, help="Seconds between looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once; so it does anyway without a terminal.")] = False,
) -> None:
    """Watch queues, workers and rates. Ctrl-C ends it."""
    from client.top import Snapshot, frame

    with api.connect() as client:
        first = Snapshot.take(client)
        if api.printer.for_programs:
            picture = {"tasks": dict(first.tasks), "queues": list(first.queues), "workers": list(first.workers)}
            api.printer.data(picture)
        elif once or not sys.stdout.isatty():
            from client.render import console, show

            show(frame(client.url, first, None, width=console().width, height=ONE_FRAME_HEIGHT))
        else:
            _live(client, first, interval)


def _live(client: "ApiClient", first: "Snapshot", interval: float) -> None:
    from rich.live import Live

    from client.render import console
    from client.top import Snapshot, frame

    target = console()
    before, now = None, first
    seen_at = time.monotonic()
    with Live(console=target, screen=True, auto_refresh=False) as live:
        while True:
            live.update(frame(client.url, now, before, width=target.width, height=target.height), refresh=True)
            time.sleep(interval)
            try:
                before, now = now, Snapshot.take(client)
                seen_at = time.monotonic()
            except Unavailable:
                # A control plane that is started anew comes back; the last picture stays meanwhile.
                if time.monotonic() - seen_at > PATIENCE_S:
                    raise


app = alone(top, "warren top\nwarren top --once --output json")
