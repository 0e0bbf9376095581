"""What all tests share: in CI a skipped test is a failed one; and an engine for those that need a whole one."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest
from tests.engines import Engine, running_engine

if TYPE_CHECKING:
    from pathlib import Path

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Generator[Engine]:
    """One running engine for all tests that only use it: they make users of their own and restart nothing."""
    with running_engine(tmp_path_factory.mktemp("engine")) as running:
        yield running


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Give a data directory for an engine of the test's own."""
    return tmp_path / "data"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Count a skipped test as failed in CI: there everything is installed that any test needs."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Count a skipped module as failed in CI, likewise."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped, which CI does not allow: {report.longrepr}"
    return report
