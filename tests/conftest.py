"""What every test may rely on: when one fails, it shows what its processes said."""

from collections.abc import Generator

import pytest

from tests.support.cluster import Cluster

SHOWN_CHARACTERS = 6000


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
