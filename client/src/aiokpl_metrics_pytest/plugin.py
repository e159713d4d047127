"""The fixture `metricsd`, and what it recorded in the report of a test that fails.

Imports nothing but pytest until a test asks for the fixture.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aiokpl_metrics_client.testing import Metricsd


@pytest.fixture
def metricsd() -> Iterator["Metricsd"]:
    """Count what the test records, without socket and process: `aiokpl_metrics_client.testing.Metricsd`."""
    from aiokpl_metrics_client.testing import Metricsd

    with Metricsd() as counted:
        yield counted


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what was recorded to the report of a failed test."""
    report = yield
    if report.when == "call" and report.failed:
        arguments: dict[str, object] = getattr(item, "funcargs", {})
        # Somebody's own fixture of this name may be anything.
        explain = getattr(arguments.get("metricsd"), "explain", None)
        if explain is not None:
            report.sections.append(("metricsd", explain()))
    return report


__all__ = ["metricsd", "pytest_runtest_makereport"]
