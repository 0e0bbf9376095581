"""Where requests come from, told by who may tell."""

from __future__ import annotations

import logging

import msgspec
import pytest
import structlog
from tests.web.bench import make_bench, small_settings

from tradeengine.web.address import client_address
from tradeengine.web.app import create_app

PROXIES = frozenset({"10.0.0.1", "10.0.0.2"})


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "192.0.2.66, 198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "192.0.2.66, 198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", " , ,", "10.0.0.1"),
    ],
)
def test_only_trusted_proxies_name_the_client(peer: str, forwarded_for: str, client: str) -> None:
    """The header counts as far as trusted proxies wrote it; what the client put there does not."""
    assert client_address(peer, forwarded_for, PROXIES) == client


async def test_request_log_names_request_and_client() -> None:
    """With an access log each request is one line with its id, status and client; without there is none."""
    for access, count in ((True, 1), (False, 0)):
        bench = make_bench()
        settings = small_settings()
        http = msgspec.structs.replace(settings.http, trusted_proxies=("<local>", "127.0.0.1"))
        log = msgspec.structs.replace(settings.log, access=access)
        bench.front.settings = msgspec.structs.replace(settings, http=http, log=log)
        client = create_app(bench.front).test_client()
        wrapper = structlog.make_filtering_bound_logger(logging.DEBUG)
        structlog.configure(wrapper_class=wrapper)
        with structlog.testing.capture_logs() as lines:
            await client.get("/health", headers={"X-Request-ID": "log-1", "X-Forwarded-For": "198.51.100.7"})
        structlog.reset_defaults()
        told = [line for line in lines if line["event"] == "request"]
        assert len(told) == count
        for line in told:
            assert (line["request_id"], line["status"], line["client"]) == ("log-1", 200, "198.51.100.7")
