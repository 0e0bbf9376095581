"""What the audit log keeps of a call, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from tests.web.bench import SECRET, Bench, bearer, make_bench

from tradeengine.settings_files import load_settings
from tradeengine.web.access import Access, terms_of
from tradeengine.web.redaction import BLOT, Redaction, redaction_of
from tradeengine.web.tries import NAMES_MAX, PER_S, TRIES_MAX, Tries

TOKEN = bearer()["Authorization"].removeprefix("Bearer ")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (TOKEN, BLOT),
        (f"see {TOKEN}, please", f"see {BLOT}, please"),
        (TOKEN[:40], BLOT),
        (f"the secret is {SECRET}.", f"the secret is {BLOT}."),
        ({"Access_Token": "abc", "reason": "abc"}, {"Access_Token": BLOT, "reason": "abc"}),
        ({"deep": [{"password": ["a", "b"]}]}, {"deep": [{"password": BLOT}]}),
        ({TOKEN: 1}, {BLOT: 1}),
        ("-----BEGIN PRIVATE KEY-----\nMC4CAQ==\n-----END PRIVATE KEY-----", BLOT),
        ({"amount": "1.50", "count": 3, "none": None}, {"amount": "1.50", "count": 3, "none": None}),
    ],
)
def test_what_is_called_a_secret_is_blotted_out(value: Any, kept: Any) -> None:
    """Secrets are found by what they are, what they look like and what they are called; all else stays as it is."""
    assert Redaction([SECRET, ""]).value(value) == kept


def test_every_secret_of_the_settings_is_known() -> None:
    """Each setting that is a secret, and the password of the database, is blotted out."""
    secrets = {
        "auth.secret": "the secret of the tokens, long enough to sign",
        "keys.master": "the master of the API keys, long enough for it",
        "wallet.secret": "the secret of the wallet service, long enough",
        "http.metrics_token": "the scrape token",
        "database.dsn": "postgresql://engine:p4ssw0rd@db.example/trade",
        "database.session_dsn": "postgresql://engine:0th3r-p4ss@db.example:5433/trade",
    }
    redaction = redaction_of(load_settings(overrides=secrets, environ={}))
    for name, secret in secrets.items():
        hidden = secret.split(":")[2].partition("@")[0] if name.startswith("database") else secret
        assert redaction.text(f"a {hidden} z") == f"a {BLOT} z"


def test_tries_have_a_bound() -> None:
    """A name may try so often at once, and then so often a second; others are not concerned, and memory is bounded."""
    now_s = 0.0
    tries = Tries(lambda: now_s)
    assert [tries.allows("mallory") for _ in range(TRIES_MAX + 5)] == [True] * TRIES_MAX + [False] * 5
    assert tries.allows("alice")
    now_s = 10 / PER_S
    assert [tries.allows("mallory") for _ in range(12)] == [True] * 10 + [False] * 2
    for number in range(NAMES_MAX + 1):
        tries.allows(str(number))
    assert tries.allows("mallory"), "the longest ago is forgotten first"


async def test_every_action_of_administrators_is_recorded() -> None:
    """Each administrators' call that is not a read, whoever adds it, leaves a record also when it is refused."""
    bench = make_bench()
    routes = [
        (rule, method)
        for rule in bench.app.url_map.iter_rules()
        for method in sorted(rule.methods or ())
        if _needs_administrator(bench, rule.endpoint) and method not in {"GET", "HEAD", "OPTIONS"}
    ]
    assert len(routes) >= 10
    async with bench.engine(lambda _: []):
        for rule, method in routes:
            path = "/".join("1" if part.startswith("<") else part for part in rule.rule.split("/"))
            for role in ("user", "super_admin"):
                before = len(bench.database.audit)
                answer = await bench.client.open(path, method=method, headers=bearer(role=role), json={"no field": 1})
                assert 400 <= answer.status_code < 500, (method, path)
                with trio.fail_after(5):
                    while len(bench.database.audit) == before:  # noqa: ASYNC110 - nobody's bell rings for it
                        await trio.sleep(0.001)
                (entry,) = bench.database.audit[before:]
                assert (entry.actor, entry.role, entry.outcome) == ("alice", role, "refused")
                assert entry.action == rule.endpoint.rpartition(".")[2]
                assert entry.code == (await answer.get_json())["error"]["code"]


def _needs_administrator(bench: Bench, endpoint: str) -> bool:
    terms = terms_of(bench.app.view_functions[endpoint])
    return terms is not None and terms.access in {Access.ADMIN, Access.SUPER_ADMIN}
