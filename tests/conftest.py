"""What all tests share: in CI a skipped test is a failed one; an engine for those that need a whole one; databases."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest
from tests.engines import Engine, running_engine
from tests.postgres import connection, dsn, make_database, postgres, symbol
from tests.sharing import SharedEngines

if TYPE_CHECKING:
    from pathlib import Path

# Fixtures. Only here: whoever imports a session's fixture again has another, which is one more server.
__all__ = ["connection", "dsn", "make_database", "postgres", "symbol"]

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}


@pytest.fixture(scope="session")
def shared_engines() -> Generator[SharedEngines]:
    """Engines that files use one after the other."""
    shared = SharedEngines()
    yield shared
    shared.close()


@pytest.fixture(scope="module")
def engine(shared_engines: SharedEngines, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """One running engine for all tests that only use it: they make users of their own and restart nothing."""
    return shared_engines.want("engine", lambda: running_engine(tmp_path_factory.mktemp("engine")))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Give a data directory for an engine of the test's own."""
    return tmp_path / "data"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Keep what coverage has measured: a worker that takes seconds to end is killed, and its figures with it."""
    coverage = sys.modules.get("coverage")
    if coverage is not None and (measured := coverage.Coverage.current()) is not None:
        measured.save()


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
