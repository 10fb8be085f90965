"""Health and metrics, above all while the database does not work."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import httpx2
import pytest

from tests.support.api import Api
from tests.support.cluster import Cluster
from tests.support.processes import FAST


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A control plane without workers."""
    with Cluster(tmp_path_factory.mktemp("health"), FAST) as cluster:
        cluster.broker.start()
        yield cluster


def metric(cluster: Cluster, name: str) -> float:
    """Return one sample of the metrics, as a scraper on the same machine sees it."""
    text = httpx2.get(f"{cluster.broker.url}/metrics").text
    return next(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(f"{name} "))


@pytest.mark.parametrize("base", ["", "/api/v1"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_health_needs_no_key(cluster: Cluster, base: str, slash: str) -> None:
    """Every probe answers without a key, at the root and under the base."""
    url = cluster.broker.url + base
    assert httpx2.get(f"{url}/healthz{slash}").json() == {"ok": True}
    for probe in ("health", "livez", "readyz"):
        answer = httpx2.get(f"{url}/{probe}{slash}")
        assert answer.status_code == 200
        assert {"status": "healthy", "service": "warren", "database": "ok"}.items() <= answer.json().items()
        assert answer.json()["version"]


def test_metrics_count_what_there_is(cluster: Cluster) -> None:
    """Tasks are counted by state and lane, and the numbers follow."""
    waiting = metric(cluster, 'warren_tasks{state="scheduled"}')
    cluster.api.submit("anything", delay_s=3600)
    cluster.api.submit("anything")
    assert metric(cluster, 'warren_tasks{state="scheduled"}') == waiting + 1
    assert metric(cluster, 'warren_lane_queued{lane="q.t.default.python"}') == 1
    assert metric(cluster, "warren_dead_letters") == metric(cluster, "warren_sessions") == 0


def test_metrics_of_somebody_behind_a_proxy_need_a_key(cluster: Cluster) -> None:
    """A scraper on this machine needs none; one that a proxy speaks for needs a viewer's."""
    url, forwarded = f"{cluster.broker.url}/metrics", {"X-Forwarded-For": "203.0.113.9"}
    assert httpx2.get(url).status_code == 200
    assert httpx2.get(url, headers=forwarded).status_code == 401
    key = {"X-API-Key": cluster.broker.key("admin")}
    assert httpx2.get(url, headers=forwarded | key).status_code == 200


def test_a_database_that_cannot_be_written_is_told(cluster: Cluster) -> None:
    """Writes fail with 503, /readyz too; /healthz, reads and metrics answer; afterwards everything works again."""
    with Api(cluster.broker.url, cluster.broker.key("admin")) as api:
        with closing(sqlite3.connect(cluster.broker.data_dir / "warren.db", isolation_level=None)) as intruder:
            intruder.execute("BEGIN IMMEDIATE")
            refused = api.request("POST", "/secrets", {"name": "one", "value": "x"})
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "storage_unavailable")
            assert refused.headers["Retry-After"]
            assert api.request("GET", "/tasks").status_code == 200
            assert httpx2.get(f"{cluster.broker.url}/healthz").json() == {"ok": True}
            ready = httpx2.get(f"{cluster.broker.url}/readyz")
            assert (ready.status_code, ready.json()["database"]) == (503, "failing")
            assert metric(cluster, "warren_writer_failing_seconds") > 0
            intruder.execute("ROLLBACK")
        assert api.request("POST", "/secrets", {"name": "one", "value": "x"}).status_code == 201
        assert httpx2.get(f"{cluster.broker.url}/readyz").status_code == 200
        assert metric(cluster, "warren_writer_failing_seconds") == 0
