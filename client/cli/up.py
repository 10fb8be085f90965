"""`warren up`: everything on this machine, with one command."""

import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from client.cli.commands import alone
from client.cli.serve import DEFAULT_PORT, DataDir, Host, Port
from protocols.names import ExitCode

if TYPE_CHECKING:
    from client.http import ApiClient
    from client.instance import Instance
    from client.processes import Child
    from client.tour.screen import Screen


class Terminated(BaseException):
    """SIGTERM or SIGHUP has come; like KeyboardInterrupt it is no error."""


def up(
    data_dir: DataDir = None,
    host: Host = "127.0.0.1",
    port: Port = DEFAULT_PORT,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many workers to run.")] = 1,
    tour: Annotated[bool, typer.Option("--tour/--no-tour", help="Show what Warren does, with real tasks.")] = True,
    tour_only: Annotated[bool, typer.Option("--tour-only", help="Stop everything after the tour.")] = False,
) -> None:
    """Run everything here: a control plane, workers, a tour."""
    from client.instance import Instance
    from client.processes import stop
    from client.profile import resolve_data_dir
    from client.programs import require
    from client.render import console
    from client.tour.screen import Screen

    require("broker")
    require("worker")
    instance = Instance(resolve_data_dir(data_dir), host, port)
    screen = Screen(console())
    helpers: list[Child] = []
    try:
        with _terminable(), ExitStack() as stack:
            stack.callback(stop, helpers)
            stack.callback(instance.stop)
            client = stack.enter_context(_start(instance, screen, workers))
            passed = _tour(instance, client, screen, helpers) if tour or tour_only else True
            if not tour_only:
                _stay_up(instance, screen)
    except Terminated:
        # To be ended is how staying up ends; a tour that was cut short has not passed.
        raise typer.Exit(ExitCode.FAILED if tour_only else ExitCode.OK) from None
    raise typer.Exit(ExitCode.OK if passed else ExitCode.FAILED)


def _start(instance: "Instance", screen: "Screen", workers: int) -> "ApiClient":
    screen.title("Warren on this machine")
    screen.step("Control plane")
    with screen.waiting("starting"):
        client = instance.start_control_plane()
    screen.tick(f"up at {instance.url}")
    screen.say(f"everything it keeps: {instance.data_dir}")
    screen.step("Worker" if workers == 1 else f"{workers} workers")
    for worker in [instance.start_worker() for _ in range(workers)]:
        with screen.waiting("starting"):
            found = instance.admit(client, worker)
        screen.tick(f"{found['name']} is approved, by the fingerprint that it wrote on this machine")
        screen.say(", ".join([str(found["fingerprint"]), *_size(found)]))
    return client


def _size(worker: dict[str, object]) -> list[str]:
    beat = worker.get("heartbeat")
    beat = beat if isinstance(beat, dict) else {}
    facts = []
    if worker.get("cpu_cores"):
        busy = f" ({beat['cpu_percent']:.0f}% busy)" if "cpu_percent" in beat else ""
        facts.append(f"{worker['cpu_cores']} CPUs{busy}")
    if isinstance(worker.get("memory_total_mb"), int):
        used = f" ({beat['memory_percent']:.0f}% used)" if "memory_percent" in beat else ""
        facts.append(f"{int(str(worker['memory_total_mb'])) / 1024:.1f} GiB memory{used}")
    return facts


def _tour(instance: "Instance", client: "ApiClient", screen: "Screen", helpers: "list[Child]") -> bool:
    from client.tour.story import Tour

    started = time.monotonic()
    tour = Tour(client, screen, instance.data_dir / "tour", instance.data_dir / "logs", helpers.append)
    passed = tour.run()
    took = time.monotonic() - started
    screen.step(f"Everything worked, in {took:.1f} s" if passed else "Not everything worked; see above")
    if not passed:
        for text in instance.obituaries():
            screen.say(text, "yellow")
        screen.say(f"logs: {instance.data_dir / 'logs'}")
    screen.say("To try next, from another terminal:")
    screen.lines(_to_reach(instance.data_dir) + tour.commands())
    return passed


def _stay_up(instance: "Instance", screen: "Screen") -> NoReturn:
    screen.title(f"\nWarren is up at {instance.url}. Ctrl-C stops it.")
    instance.supervise(lambda text: screen.say(text, "yellow"))


def _to_reach(data_dir: Path) -> list[tuple[str, str]]:
    from client.profile import resolve_data_dir

    if data_dir == resolve_data_dir(None, {}):
        return []
    return [(f"export WARREN_DATA_DIR={shlex.quote(str(data_dir))}", "so that the command finds this one")]


@contextmanager
def _terminable() -> Iterator[None]:
    """End in order on SIGTERM and SIGHUP too, where Python would just die."""

    def end(number: int, frame: object) -> None:
        raise Terminated

    # What was ignored before stays ignored: `nohup` means it.
    heard = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


app = alone(up, "warren up\nwarren up --workers 3 --no-tour")
