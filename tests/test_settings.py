"""Settings: four sources, one owner of the defaults, and refusals that say what is allowed."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from tradeengine.core.symbols import AssetSpec, SymbolSpec
from tradeengine.settings import Settings, SettingsError
from tradeengine.settings_files import load_seeds, load_settings, package_folder, settings_from


def defaults() -> dict[str, dict[str, object]]:
    """Read the file of defaults, unchecked."""
    return tomllib.loads((package_folder("config") / "default.toml").read_text())


def test_defaults_are_complete_and_allowed() -> None:
    """The file of defaults sets every setting, and nothing else, to something allowed."""
    assert isinstance(settings_from(defaults()), Settings)
    for section, values in defaults().items():
        for name in values:
            missing = {**defaults(), section: {key: value for key, value in values.items() if key != name}}
            with pytest.raises(SettingsError, match=name):
                settings_from(missing)


def test_every_setting_has_a_comment() -> None:
    """In the file of defaults, the line above every setting is a comment."""
    lines = (package_folder("config") / "default.toml").read_text().splitlines()
    commented = {
        line.partition(" = ")[0]
        for before, line in pairwise(lines)
        if re.match(r"[a-z_]+ = ", line) and before.startswith("# ")
    }
    assert commented == {name for values in defaults().values() for name in values}


def test_file_names_only_what_differs(tmp_path: Path) -> None:
    """A file changes what it names and leaves the rest as it was."""
    path = tmp_path / "mine.toml"
    path.write_text("[engine]\nshards = 3\n")
    settings = load_settings(path, environ={})
    assert settings.engine.shards == 3
    assert msgspec.structs.replace(settings.engine, shards=1) == load_settings(environ={}).engine


def test_later_sources_win(tmp_path: Path) -> None:
    """The environment wins over the file, the command line over the environment."""
    path = tmp_path / "mine.toml"
    path.write_text("[engine]\nshards = 2\nfronts = 2\n[http]\nport = 2\n")
    environ = {"TRADEENGINE_CONFIG": str(path), "TRADEENGINE_ENGINE_FRONTS": "3", "TRADEENGINE_HTTP_PORT": "3"}
    settings = load_settings(None, {"http.port": 4, "http.host": None}, environ)
    assert (settings.engine.shards, settings.engine.fronts, settings.http.port) == (2, 3, 4)


def test_environment_speaks_every_type() -> None:
    """A variable sets numbers, switches, texts and comma-separated lists."""
    settings = load_settings(
        environ={
            "TRADEENGINE_JOURNAL_SYNC": "false",
            "TRADEENGINE_HTTP_STOP_TIMEOUT_S": "2.5",
            "TRADEENGINE_HTTP_CORS_ORIGINS": "https://a.example, https://b.example",
            "TRADEENGINE_DATABASE_DSN": "host=/tmp dbname=12",
            "TRADEENGINE_LIMITS_ORDERS_MAX": "1024",
        }
    )
    assert settings.journal.sync is False
    assert settings.http.stop_timeout_s == 2.5
    assert settings.http.cors_origins == ("https://a.example", "https://b.example")
    assert settings.database.dsn == "host=/tmp dbname=12"
    assert settings.limits.orders_max == 1024


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("TRADEENGINE_ENGINE_SHARDS", "0", r"engine\.shards = 0 is not allowed: must be a whole number from 1 to 64$"),
        ("TRADEENGINE_ENGINE_SHARDS", "65", r"engine\.shards = 65 .*from 1 to 64"),
        ("TRADEENGINE_ENGINE_SHARDS", "two", r"engine\.shards.* = 'two' .*whole number"),
        ("TRADEENGINE_JOURNAL_SYNC", "maybe", r"journal\.sync.* = 'maybe' .*true or false"),
        ("TRADEENGINE_HTTP_PORT", "65536", r"http\.port = 65536 .*a whole number from 0 to 65535"),
        ("TRADEENGINE_RINGS_EVENTS_SLOTS", "1000", r"rings\.events_slots = 1000 .*power of two"),
        ("TRADEENGINE_RINGS_RESERVE_SLOTS", "60000", r"rings\.reserve_slots = 60000 .*half of rings\.commands_slots"),
        ("TRADEENGINE_SETTLEMENT_BACKLOG_EVENTS_MAX", "262144", r"settlement\.backlog_events_max.*at most half"),
        ("TRADEENGINE_LOG_LEVEL", "loud", r"log\.level = 'loud' .*'debug', 'info', 'warning', 'error'"),
        ("TRADEENGINE_AUTH_SECRET", "short", r"auth\.secret = .*at least 32 characters"),
        ("TRADEENGINE_WALLET_URL", "ftp://wallet", r"wallet\.url = 'ftp://wallet' .*an address such as http://"),
        ("TRADEENGINE_WALLET_BACKOFF_MS_MAX", "1", r"wallet\.backoff_ms_max = 1 .*at least wallet\.backoff_ms_min"),
        ("TRADEENGINE_WALLET_EXCHANGE_USER", "*", r"wallet\.exchange_user = '\*' .*text that matches"),
        ("TRADEENGINE_HTTP_TLS_KEY", "key.pem", r"http\.tls_key = .*together with http\.tls_certificate"),
        ("TRADEENGINE_SUPERVISOR_HEARTBEAT_TIMEOUT_S", "nan", r"heartbeat_timeout_s = nan .*a number above 0"),
        ("TRADEENGINE_DEMO_ORDERS_PER_S", "-1", r"demo\.orders_per_s = -1\.0 .*above 0 and at most 100000"),
        ("TRADEENGINE_ENGINE_DATA_DIR", "", r"engine\.data_dir = '' .*not empty"),
        ("TRADEENGINE_SUPERVISOR_RESTART_COUNT_MAX", "-1", r"restart_count_max = -1 .*of at least 0"),
        ("TRADEENGINE_SHARDS", "2", r"TRADEENGINE_SHARDS names no setting"),
        ("TRADEENGINE_ENGINE_SHARD", "2", r"TRADEENGINE_ENGINE_SHARD names no setting"),
        ("TRADEENGINE_CONFIG", "/nowhere/at/all.toml", r"/nowhere/at/all\.toml cannot be read"),
    ],
)
def test_wrong_environment_is_refused(variable: str, value: str, said: str) -> None:
    """A wrong variable is refused in one line with the setting's name, its value and what is allowed."""
    with pytest.raises(SettingsError) as refusal:
        load_settings(environ={variable: value})
    assert re.search(said, str(refusal.value)), refusal.value
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[engine]\nshard = 2\n", r"engine\.shard is unknown: known here are data_dir, fronts, shards"),
        ("[motor]\nshards = 2\n", r"motor is unknown: known here are auth, database"),
        ("[engine]\nshards = '2'\n", r"engine\.shards = '2' .*a whole number from 1 to 64"),
        ("engine = 2\n", r"engine = 2 .*a table of settings"),
        ("[http]\ncors_origins = [1]\n", r"http\.cors_origins\[0\] = 1 .*must be text"),
        ("[engine\n", r"is not TOML"),
    ],
)
def test_wrong_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    """A wrong file is refused in one line with the setting's name, its value and what is allowed."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SettingsError) as refusal:
        load_settings(path, environ={})
    assert re.search(said, str(refusal.value)), refusal.value
    assert "\n" not in str(refusal.value)


def test_secret_is_not_in_its_refusal() -> None:
    """The refusal of a secret does not show it."""
    with pytest.raises(SettingsError) as refusal:
        load_settings(environ={"TRADEENGINE_AUTH_SECRET": "hunter2"})
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("name", ["notional_min", "collar"])
def test_unknown_name_in_the_seeds_is_refused(name: str, tmp_path: Path) -> None:
    """A symbol of the seeds has the API's names; any other is refused, and the known ones are listed."""
    path = tmp_path / "symbols.toml"
    seeds = (package_folder("config") / "symbols.toml").read_text(encoding="utf-8")
    path.write_text(seeds.replace("price_max =", f'{name} = "1"\nprice_max =', 1), encoding="utf-8")
    with pytest.raises(SettingsError, match=rf"symbols\[0\]\.{name} is unknown: known here are .*min_notional, name"):
        load_seeds(path)


def test_seeds_can_be_listed() -> None:
    """Ten pairs come with the program, and each passes the checks of a listing at the default limits."""
    seeds = load_seeds()
    assets = {seed.name: AssetSpec(number, seed.name, seed.places) for number, seed in enumerate(seeds.assets)}
    orders_max = load_settings(environ={}).limits.orders_max
    for number, seed in enumerate(seeds.symbols):
        base, quote = (assets[name] for name in seed.name.split("/"))
        fields = {name: getattr(seed, name) for name in seed.__struct_fields__ if name != "name"}
        spec = SymbolSpec.from_decimals(symbol_id=number, base=base, quote=quote, **fields)
        spec.require_level_sum(orders_max)
        assert spec.name == seed.name
    assert len(seeds.symbols) == 10
    assert {"BTC/USDT", "ETH/USDT"} <= {seed.name for seed in seeds.symbols}
