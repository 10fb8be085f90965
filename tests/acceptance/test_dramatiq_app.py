"""A dramatiq program does with Warren what it did before, and one line of it has changed."""

import difflib
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.processes import FAST, ROOT, wait_until

APP = ROOT / "examples" / "dramatiq_app"
RECEIPTS = {
    "Ada.txt": "Ada owes 14.44\n",
    "Grace.txt": "Grace owes 7.38\n",
    "Edsger.txt": "Edsger owes 66.77\n",
    "reminders.txt": "Ada\nEdsger\nGrace\n",
}
WITH_DRAMATIQS_WORKER = """
import sys
import dramatiq
from dramatiq.brokers.stub import StubBroker

broker = StubBroker()
dramatiq.set_broker(broker)
from examples.dramatiq_app.orders import order_all

worker = dramatiq.Worker(broker, worker_timeout=20)
worker.start()
order_all(sys.argv[1])
for queue in ("default", "mail", "default", "mail"):
    broker.join(queue, timeout=30_000)
worker.stop()
"""
"""How the program ran before, with dramatiq's own queues in memory in the place of RabbitMQ's."""


def run(folder: Path, *command: str, **more: str) -> Mapping[str, str]:
    """Run the program to its end and return what it has written by then."""
    folder.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WARREN_")}
    environment = {**kept, "PYTHONPATH": str(ROOT), **more}
    subprocess.run([sys.executable, *command, str(folder)], env=environment, check=True, timeout=60)
    return written(folder)


def written(folder: Path) -> Mapping[str, str]:
    """Return what is in a folder."""
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_one_line_has_changed() -> None:
    """And the import of what it names; the README shows just that."""
    before, after = ((APP / name).read_text().splitlines() for name in ("before.py", "after.py"))
    changes = [line for line in difflib.ndiff(before, after) if line[0] in "+-" and line[2:]]
    assert sorted(changes) == [
        "+ dramatiq.set_broker(WarrenBroker())",
        "+ from warren.dramatiq import WarrenBroker",
        '- dramatiq.set_broker(RabbitmqBroker(url="amqp://127.0.0.1:5672"))',
        "- from dramatiq.brokers.rabbitmq import RabbitmqBroker",
    ]
    readme = (APP / "README.md").read_text()
    assert all(f"\n{line[0]}{line[2:]}\n" in readme for line in changes)


def test_it_does_the_same_with_either(tmp_path: Path) -> None:
    """Each order has its receipt, whoever carried the messages."""
    assert run(tmp_path / "before", "-c", WITH_DRAMATIQS_WORKER) == RECEIPTS
    with Cluster(tmp_path, FAST) as cluster:
        cluster.broker.start()
        declared = entry_points()
        actions = ",".join(f"{name}={source}" for name, source in declared.items())
        cluster.worker("one", actions=actions, pools="default,mail").start()
        environment = {"WARREN_URL": cluster.broker.url, "WARREN_API_KEY": cluster.broker.key("admin")}
        after = tmp_path / "after"
        run(after, "-m", "examples.dramatiq_app.after", **environment)
        wait_until("all is written", lambda: written(after) == RECEIPTS)
        wait_until("nothing is left", lambda: {row.state for row in cluster.ledger.rows()} == {"succeeded"})
        assert len(cluster.ledger.rows()) == 10
        assert cluster.ledger.violations() == []


def entry_points() -> dict[str, str]:
    """Return the entry points that the README declares."""
    declaration = (APP / "README.md").read_text().partition("```toml\n")[2].partition("```")[0]
    points: dict[str, str] = tomllib.loads(declaration)["project"]["entry-points"]["warren.actions"]
    return points
