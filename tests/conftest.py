"""What every test may rely on: when one fails, it shows what its processes said."""

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.support.cluster import Cluster

SHOWN_CHARACTERS = 6000


def pytest_configure() -> None:
    """Make a run depend on the code alone: not on chance, a loaded machine, or how it was started."""
    settings.register_profile(
        "ci",
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    if os.environ.get("CI"):
        settings.load_profile("ci")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background job ignores Ctrl-C, and so would everything that the tests start.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the output of a failed test's processes to its report."""
    del call
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Cluster):
                report.sections += [
                    (f"output of {name} (its end)", text[-SHOWN_CHARACTERS:]) for name, text in value.outputs()
                ]
    return report
