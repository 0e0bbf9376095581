"""The API against its own description: calls that the description allows, and calls that it forbids, by the thousand.

The calls are made by schemathesis from ``/openapi.json`` of a running engine, so a route that is added is called too,
and from seeds, so a call that fails once fails always. Whatever is asked, the answer is one that is described, what
the description forbids is refused, and money and books are right afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    missing_required_header,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from tests.e2e.bank import check_ledger
from tests.engines import Engine, running_engine

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    missing_required_header,
    unsupported_method,
    ignored_auth,
]
ALLOWED, FORBIDDEN = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
ROLES: Final = (None, "user", "admin", "super_admin")
NAME: Final = "fuzz"
REAL: Final = {"symbol": "BTC/USDT", "asset": "USDT", "user": NAME}
"""What exists: of names that were made up most calls are refused before anything is done."""
BATCH: Final = "/api/v1/orders/batch"
"""It is answered 200 whatever becomes of its orders."""


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Run an engine whose administrators do whatever comes to their minds; at the end its money is all there."""
    with running_engine(tmp_path_factory.mktemp("described")) as running:
        running.deposit(NAME, "USDT", "1000000")
        running.deposit(NAME, "BTC", "100")
        yield running
        check_ledger(running)
        assert [line for line in running.errors if "Traceback" in line or "fault" in line] == []


def call_everything(
    engine: Engine, role: str | None, mode: GenerationMode, example_count: int, seed: int, prefix: str = "/"
) -> int:
    """Call every operation under a path so often, each answer checked; returns how many calls were made."""
    headers = {}
    if role is not None:
        with engine.client(NAME, role) as client:
            headers["Authorization"] = client.headers["Authorization"]
    bounds = settings(
        max_examples=example_count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    description = schemathesis.openapi.from_url(f"{engine.url}/openapi.json")
    found: list[Any] = [result.ok() for result in description.get_all_operations()]  # type: ignore[union-attr]
    operations = [operation for operation in found if operation.path.startswith(prefix)]
    return sum(call_operation(engine, operation, mode, headers, bounds, seed) for operation in operations)


def call_operation(
    engine: Engine, operation: Any, mode: GenerationMode, headers: dict[str, str], bounds: settings, seed: int
) -> int:
    """Call one operation; returns how often."""
    checks = [check for check in CHECKS if operation.path != BATCH or check is not negative_data_rejection]
    call_count = 0

    @hypothesis.seed(seed)
    @bounds
    @given(case=operation.as_strategy(mode, headers=headers or None), is_real=st.booleans())
    def call(case: Any, is_real: bool) -> None:
        nonlocal call_count
        call_count += 1
        if is_real and mode is ALLOWED:
            use_real_names(case)
        case.validate_response(case.call(base_url=engine.url, headers=headers), checks=checks)

    try:
        call()
    except Unsatisfiable:
        assert mode is FORBIDDEN, operation.path  # it takes nothing that could be wrong
    return call_count


def use_real_names(case: Any) -> None:
    """Let a call be about what exists."""
    for place in (case.path_parameters, case.query, case.body):
        if isinstance(place, dict):
            place.update({name: value for name, value in REAL.items() if name in place})


def test_engine_is_as_it_describes_itself(described: Engine) -> None:
    """Calls of every operation that the description allows are answered as it says."""
    assert call_everything(described, "super_admin", ALLOWED, 2, seed=1) > 100


def test_orders_that_the_description_forbids_are_refused(described: Engine) -> None:
    """Calls about orders that the description forbids are refused, whatever is wrong with them."""
    assert call_everything(described, "user", FORBIDDEN, 2, seed=1, prefix="/api/v1/orders") > 10


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("mode", [ALLOWED, FORBIDDEN])
@pytest.mark.parametrize("role", ROLES)
def test_nobody_finds_what_is_not_described(
    described: Engine, role: str | None, mode: GenerationMode, seed: int
) -> None:
    """Nobody, users and administrators make thousands of calls of every kind, and find all to be as described."""
    assert call_everything(described, role, mode, 25, seed) > 500
