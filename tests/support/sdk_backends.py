"""The two control planes that the library must not be able to tell apart: the real one, and the stand-in for tests."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.processes import Child, stop
from client.tour.model import start_stand_in
from tests.support import actions, worker_functions
from tests.support.cluster import Cluster
from tests.support.processes import FAST
from tests.support.sshd import PrivateSshd
from warren import Warren
from warren.testing import FakeWarren

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": worker_functions.add,
    "add_async": worker_functions.add_async,
    "fail": worker_functions.fail,
    "leave": worker_functions.leave,
    "strange": worker_functions.strange,
    "large": worker_functions.large,
    "wait_for_file": worker_functions.wait_for_file,
    "fail_first": actions.fail_first,
}
PROVIDER, MODEL, HOST = "llm", "stand-in", "host"


@dataclass(frozen=True)
class Backend:
    """A control plane with workers, a provider and a host, and an administrator's client of it."""

    warren: Warren
    fake: FakeWarren | None


@contextmanager
def fake_backend() -> Iterator[Backend]:
    """Give the stand-in; what its model and host do is what those of the real one do."""
    with FakeWarren() as fake, fake.client() as warren:
        for name, function in FUNCTIONS.items():
            fake.action(name, function)
        fake.on("llm.chat", output=["This is ", "Warren's ", "stand-in."])
        fake.on("ssh.exec", output="out\n", when=_runs("echo out"))
        fake.on("ssh.exec", result={"exit_status": 9, "stderr_tail": "err\n"}, when=_runs("echo err >&2; exit 9"))
        yield Backend(warren, fake)


@contextmanager
def real_backend(directory: Path) -> Iterator[Backend]:
    """Give a control plane with a worker, the tour's model, and a private sshd."""
    declared = ",".join(f"{name}={function.__module__}:{name}" for name, function in FUNCTIONS.items())
    helpers: list[Child] = []
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(directory, FAST))
        cluster.broker.start()
        cluster.start(cluster.worker("one", actions=declared))
        sshd = stack.enter_context(PrivateSshd(directory / "sshd"))
        stack.callback(stop, helpers)
        model = start_stand_in(directory / "model.log", helpers.append)
        warren = stack.enter_context(Warren(cluster.broker.url, cluster.broker.key("admin")))
        warren.providers.create(PROVIDER, model.base_url)
        warren.secrets.create("host-key", sshd.private_key)
        warren.connections.create(
            HOST,
            hostname=sshd.hostname,
            port=sshd.port,
            username=sshd.username,
            auth_method="key",
            secret="host-key",
            host_keys=sshd.host_keys,
        )
        yield Backend(warren, None)


def _runs(command: str) -> Any:
    return lambda form: form["input"]["command"] == command
