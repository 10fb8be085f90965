"""Numbers of many rows: exact up to a limit, and said to be more beyond it."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from broker.counting import LIMIT, MAX_GROUPS, Grouping, Groups, counted, is_exact, shown
from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST

LANE = "q.t.default.python"
things = sa.Table(
    "things", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("kind", sa.String, index=True)
)


@pytest.fixture
def connection() -> Iterator[Connection]:
    """A database with one thing of kind a, two of b, three of c."""
    engine = sa.create_engine("sqlite://")
    things.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(things.insert(), [{"kind": kind} for kind in "abbccc"])
        yield connection
    engine.dispose()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A control plane with one task more than is counted, all for later, and nobody to run them."""
    with Cluster(tmp_path_factory.mktemp("counting"), FAST) as cluster:
        cluster.broker.start()
        for size in (*[1000] * (LIMIT // 1000), 1):
            cluster.api.submit_all([{"action": "noop", "delay_s": 86_400}] * size)
        yield cluster.api


@pytest.mark.parametrize(("limit", "number", "exact"), [(7, 6, True), (6, 6, True), (5, 5, False)])
def test_a_number_ends_at_its_limit(connection: Connection, limit: int, number: int, exact: bool) -> None:
    """It is known whether it does."""
    found = connection.execute(sa.select(counted(sa.select(things).order_by(things.c.kind), limit))).scalar_one()
    assert (shown(found, limit), is_exact(found, limit)) == (number, exact)


@pytest.mark.parametrize(
    ("limit", "total", "found"),
    [
        (3, None, Groups({"a": 1, "b": 2, "c": 3}, are_exact=True)),
        (2, None, Groups({"a": 1, "b": 2, "c": 2}, are_exact=False)),
        # The one large group is what the others leave of the total.
        (2, 6, Groups({"a": 1, "b": 2, "c": 3}, are_exact=True)),
        (1, 6, Groups({"a": 1, "b": 1, "c": 1}, are_exact=False)),
    ],
)
def test_groups_end_at_their_limit(connection: Connection, limit: int, total: int | None, found: Groups) -> None:
    """Each for itself."""
    assert Grouping(things.c.kind, limit=limit).read(connection, total) == found


def test_groups_are_those_of_some_rows(connection: Connection) -> None:
    """A condition holds for the values as well as for the numbers."""
    grouping = Grouping(things.c.kind, things.c.id.between(2, 4), limit=10)
    assert grouping.read(connection).numbers == {"b": 2, "c": 1}


def test_there_is_an_end_to_groups(connection: Connection) -> None:
    """However many values there are, and also if there are none."""
    connection.execute(things.insert(), [{"kind": f"d{number:03}"} for number in range(MAX_GROUPS)])
    grouping = Grouping(things.c.kind, limit=10)
    assert len(grouping.read(connection).numbers) == MAX_GROUPS
    connection.execute(things.delete())
    assert grouping.read(connection) == Groups({}, are_exact=True)


def test_a_list_says_when_it_has_more_than_its_total(api: Api) -> None:
    """With the same pages as ever; a filter that leaves fewer has an exact total."""
    page = api.call("GET", f"/tasks?offset={LIMIT - 1}")
    assert (page["total"], page["total_is_exact"], len(page["data"]), page["has_more"]) == (LIMIT, False, 2, False)
    first = api.call("GET", "/tasks?limit=1")["data"][0]["id"]
    api.cancel(first)
    page = api.call("GET", "/tasks?state=scheduled&limit=1")
    assert (page["total"], page["total_is_exact"]) == (LIMIT, True)


def test_a_queue_says_when_it_holds_more_than_its_number(api: Api) -> None:
    """What waits is counted apart from what is for later."""
    api.submit_all([{"action": "noop"}] * 20)
    api.submit_all([{"action": "noop", "delay_s": 86_400}] * 20)
    queue = api.call("GET", f"/queues/{LANE}")
    assert (queue["waiting"] + queue["queued"], queue["delayed"], queue["counts_are_exact"]) == (20, LIMIT, False)
    assert queue["oldest_waiting_at"] is not None


def test_statistics_go_further(api: Api) -> None:
    """They are exact for many more, and give the sum of all."""
    stats = api.call("GET", "/tasks/stats")
    assert stats["counts_are_exact"]
    assert stats["total"] == sum(stats["by_state"].values()) > LIMIT
