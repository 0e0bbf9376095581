"""Settings: one immutable tree, read once at start and handed to every actor.

Rule 1: ``config/default.toml`` owns the defaults and the text that explains them; this file owns types and bounds.
Rule 2: four sources, the later wins: the defaults, a file of one's own, ``TRADEENGINE_…`` variables, the command line.
Rule 3: a wrong setting is refused before anything starts, with its name, its value and what is allowed.
It refuses to know what a setting is used for.
"""

from __future__ import annotations

import os
import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

ENVIRONMENT_PREFIX: Final = "TRADEENGINE_"
ENVIRONMENT_RESERVED: Final = frozenset({"TRADEENGINE_CONFIG", "TRADEENGINE_HANDOFF", "TRADEENGINE_CRASH_AT"})
SECRET_LENGTH_MIN: Final = 32

Count = Annotated[int, Meta(ge=1)]
Slots = Annotated[int, Meta(ge=16, le=1 << 28)]
Seconds = Annotated[float, Meta(gt=0)]
TokenAlgorithm = Literal["HS256", "RS256", "EdDSA"]


class SettingsError(ValueError):
    """A setting that is refused; the message names it, its value and what is allowed."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the settings file. No field has a default here: the defaults are in ``config/default.toml``."""


class Engine(_Section, frozen=True):
    """Size and place of the engine."""

    data_dir: Annotated[str, Meta(min_length=1)]
    shards: Annotated[int, Meta(ge=1, le=64)]
    fronts: Annotated[int, Meta(ge=1, le=32)]


class Http(_Section, frozen=True):
    """The listening socket and what requests may do."""

    host: Annotated[str, Meta(min_length=1)]
    port: Annotated[int, Meta(ge=0, le=65535)]
    backlog: Annotated[int, Meta(ge=1, le=65535)]
    body_bytes_max: Annotated[int, Meta(ge=1024)]
    command_timeout_ms: Annotated[int, Meta(ge=1, le=600_000)]
    barrier_timeout_ms: Annotated[int, Meta(ge=1, le=600_000)]
    stop_timeout_s: Seconds
    cors_origins: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    tls_certificate: str
    tls_key: str
    metrics_token: str


class Auth(_Section, frozen=True):
    """How tokens are signed and checked."""

    algorithms: tuple[TokenAlgorithm, ...]
    keys_file: str
    issuer: str
    audience: str
    secret: str
    token_lifetime_s: Count
    leeway_s: Annotated[int, Meta(ge=0, le=300)]


class Keys(_Section, frozen=True):
    """API keys and the requests that are signed with them."""

    master: str
    per_account_max: Annotated[int, Meta(ge=1, le=10_000)]
    window_ms_max: Annotated[int, Meta(ge=5000, le=60_000)]
    signatures_max: Annotated[int, Meta(ge=64, le=1 << 28)]


class Limits(_Section, frozen=True):
    """What is allocated at start."""

    symbols_max: Annotated[int, Meta(ge=1, le=65_536)]
    assets_max: Annotated[int, Meta(ge=2, le=4096)]
    accounts_max: Annotated[int, Meta(ge=32, le=1 << 24)]
    orders_max: Annotated[int, Meta(ge=16, le=1 << 26)]
    levels_max: Annotated[int, Meta(ge=16, le=1 << 20)]
    open_orders_max: Count
    client_ids_max: Annotated[int, Meta(ge=16, le=1 << 28)]
    clients_max: Annotated[int, Meta(ge=0, le=32)]


class Rings(_Section, frozen=True):
    """Slots of each kind of ring: powers of two."""

    ingress_slots: Slots
    commands_slots: Slots
    events_slots: Slots
    risk_events_slots: Slots
    feed_slots: Slots
    reserve_slots: Annotated[int, Meta(ge=1)]


class Wait(_Section, frozen=True):
    """How actors wait."""

    spin_us: Annotated[int, Meta(ge=0, le=1_000_000)]
    timeout_ms: Annotated[int, Meta(ge=1, le=10_000)]


class Journal(_Section, frozen=True):
    """Durability of commands."""

    sync: bool
    group_commands_max: Annotated[int, Meta(ge=1, le=1 << 20)]
    segment_bytes: Annotated[int, Meta(ge=65_536, le=1 << 34)]
    retain_h: Annotated[int, Meta(ge=0)]
    free_disk_bytes_min: Annotated[int, Meta(ge=0)]


class Snapshots(_Section, frozen=True):
    """Snapshots of the books."""

    keep_count: Annotated[int, Meta(ge=1, le=1000)]


class Settlement(_Section, frozen=True):
    """The way into PostgreSQL."""

    batch_events_max: Annotated[int, Meta(ge=1, le=1 << 20)]
    backlog_events_max: Count
    funding_interval_ms: Annotated[int, Meta(ge=1, le=10_000)]


class Publisher(_Section, frozen=True):
    """How often tables are rewritten."""

    depth_interval_ms: Annotated[int, Meta(ge=0, le=10_000)]
    ticker_interval_ms: Annotated[int, Meta(ge=1, le=60_000)]
    candle_interval_ms: Annotated[int, Meta(ge=1, le=60_000)]


class Requests(_Section, frozen=True):
    """How many requests are answered: token buckets, for all fronts together. A rate of 0: no limit."""

    user_per_s: Annotated[int, Meta(ge=0, le=1_000_000)]
    user_burst: Annotated[int, Meta(ge=1, le=10_000_000)]
    address_per_s: Annotated[int, Meta(ge=0, le=1_000_000)]
    address_burst: Annotated[int, Meta(ge=1, le=10_000_000)]
    cancel_factor: Annotated[int, Meta(ge=1, le=1000)]
    names_max: Annotated[int, Meta(ge=64, le=1 << 24)]


class Streams(_Section, frozen=True):
    """What WebSocket clients may do."""

    connections_max: Annotated[int, Meta(ge=1, le=100_000)]
    connections_per_address_max: Count
    connections_per_user_max: Count
    messages_per_s_max: Annotated[int, Meta(ge=1, le=1_000_000)]
    frame_bytes_max: Annotated[int, Meta(ge=1024, le=1 << 24)]
    subscriptions_max: Annotated[int, Meta(ge=1, le=10_000)]
    merge_bytes: Annotated[int, Meta(ge=1024)]
    queue_bytes_max: Annotated[int, Meta(ge=4096)]
    stall_timeout_s: Seconds
    ping_interval_s: Seconds
    resume_s_max: Annotated[int, Meta(ge=1)]
    balances_interval_ms: Annotated[int, Meta(ge=1, le=60_000)]


class Keeper(_Section, frozen=True):
    """What is made ahead in PostgreSQL, what is stored, and how long things are kept. 0: for ever, or not at all."""

    partition_months_ahead: Annotated[int, Meta(ge=1, le=120)]
    partition_days_ahead: Annotated[int, Meta(ge=1, le=366)]
    retain_orders_months: Annotated[int, Meta(ge=0, le=1200)]
    retain_trades_days: Annotated[int, Meta(ge=0, le=36_500)]
    depth_snapshot_interval_s: Annotated[float, Meta(ge=0, le=86_400)]
    depth_snapshot_levels: Annotated[int, Meta(ge=1, le=1000)]
    retain_depth_days: Annotated[int, Meta(ge=0, le=36_500)]
    reconcile_interval_s: Annotated[float, Meta(ge=0, le=86_400)]
    reconcile_timeout_s: Annotated[float, Meta(gt=0, le=3600)]


class Database(_Section, frozen=True):
    """PostgreSQL."""

    dsn: str
    pool_size: Annotated[int, Meta(ge=1, le=256)]
    statement_timeout_ms: Annotated[int, Meta(ge=1)]
    connect_timeout_s: Annotated[int, Meta(ge=1, le=600)]


class Supervisor(_Section, frozen=True):
    """Watching and restarting actors."""

    heartbeat_timeout_s: Seconds
    restart_backoff_ms: Annotated[int, Meta(ge=0, le=60_000)]
    restart_backoff_ms_max: Annotated[int, Meta(ge=0, le=600_000)]
    restart_count_max: Annotated[int, Meta(ge=0)]
    restart_window_s: Seconds
    stop_timeout_s: Seconds


class Wallet(_Section, frozen=True):
    """Who keeps the money, and how a wallet service is asked."""

    kind: Literal["ledger", "http"]
    url: str
    secret: str
    mode: Literal["transfer", "legs"]
    exchange_user: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.:@-]{1,64}$")]
    concurrency: Annotated[int, Meta(ge=1, le=256)]
    timeout_s: Annotated[float, Meta(gt=0, le=600)]
    tries_max: Annotated[int, Meta(ge=1, le=1000)]
    backoff_ms_min: Annotated[int, Meta(ge=1, le=600_000)]
    backoff_ms_max: Annotated[int, Meta(ge=1, le=3_600_000)]
    breaker_failures: Annotated[int, Meta(ge=1, le=1000)]
    breaker_open_s: Annotated[float, Meta(gt=0, le=3600)]


class Demo(_Section, frozen=True):
    """Demo traders."""

    enabled: bool
    traders: Annotated[int, Meta(ge=2, le=64)]
    orders_per_s: Annotated[float, Meta(gt=0, le=100_000)]


class Log(_Section, frozen=True):
    """Log lines on standard error."""

    level: Literal["debug", "info", "warning", "error"]
    format: Literal["console", "json"]


class Settings(_Section, frozen=True):
    """All settings."""

    engine: Engine
    http: Http
    auth: Auth
    keys: Keys
    limits: Limits
    rings: Rings
    wait: Wait
    journal: Journal
    snapshots: Snapshots
    settlement: Settlement
    publisher: Publisher
    keeper: Keeper
    requests: Requests
    streams: Streams
    database: Database
    supervisor: Supervisor
    wallet: Wallet
    demo: Demo
    log: Log

    @property
    def data_dir(self) -> Path:
        """The data directory as an absolute path."""
        return Path(self.engine.data_dir).expanduser().absolute()

    def journal_dir(self, shard: int) -> Path:
        """Folder of a shard's journal."""
        return self.data_dir / "journal" / f"shard-{shard}"

    def snapshot_dir(self, shard: int) -> Path:
        """Folder of a shard's snapshots."""
        return self.data_dir / "snapshots" / f"shard-{shard}"

    @property
    def wallet_dir(self) -> Path:
        """Folder of the reference wallet service; by the secret in it the engine and the service know each other."""
        return self.data_dir / "wallet"


class AssetSeed(_Section, frozen=True):
    """An asset of ``symbols.toml``."""

    name: str
    places: int


class SymbolSeed(_Section, frozen=True):
    """A symbol of ``symbols.toml``, in decimals; ``core.symbols.SymbolSpec.from_decimals`` says what is allowed."""

    name: str
    tick: str
    lot: str
    price_max: str
    quantity_min: str
    quantity_max: str
    min_notional: str
    max_price_deviation: str
    maker_fee: str
    taker_fee: str
    shard: Annotated[int, Meta(ge=0)]


class Seeds(_Section, frozen=True):
    """What a new database starts with."""

    assets: tuple[AssetSeed, ...]
    symbols: tuple[SymbolSeed, ...]


def load_settings(
    path: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings from all four sources.

    path: a TOML file that names what differs from the defaults; ``TRADEENGINE_CONFIG`` when None. overrides:
    ``{"http.port": 0}`` from the command line, None values left out. environ: ``os.environ`` when None.
    Raises SettingsError with one line that names the setting, its value and what is allowed.
    """
    environ = os.environ if environ is None else environ
    raw = _read_toml(package_folder("config") / "default.toml")
    if path is None and environ.get("TRADEENGINE_CONFIG"):
        path = Path(environ["TRADEENGINE_CONFIG"])
    if path is not None:
        _merge(raw, _read_toml(path))
    for name, text in sorted(environ.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in ENVIRONMENT_RESERVED:
            _set_from_environment(raw, name, text)
    for name, value in (overrides or {}).items():
        if value is not None:
            section, key = name.split(".")
            raw[section][key] = value
    return settings_from(raw)


def settings_from(raw: Mapping[str, Any]) -> Settings:
    """Check a whole tree of plain values. Raises SettingsError."""
    try:
        settings = msgspec.convert(raw, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(raw, str(error), Settings)) from None
    _check(settings)
    return settings


def load_seeds(path: Path | None = None) -> Seeds:
    """Read assets and symbols for a new database: ``config/symbols.toml`` when path is None. Raises SettingsError."""
    raw = _read_toml(path or package_folder("config") / "symbols.toml")
    try:
        return msgspec.convert(raw, Seeds)
    except msgspec.ValidationError as error:
        raise SettingsError(_explain(raw, str(error), Seeds)) from None


def package_folder(name: str) -> Path:
    """Folder of files that come with the program: ``config`` or ``migrations``.

    In a wheel they lie inside the package; in a source tree beside ``src``, to which the import path is a link.
    """
    here = Path(__file__).parent
    inside = here / name
    return inside if inside.is_dir() else here.resolve().parent / name


def _check(settings: Settings) -> None:
    for name in ("ingress_slots", "commands_slots", "events_slots", "risk_events_slots"):
        slots = getattr(settings.rings, name)
        if slots & (slots - 1):
            _refuse(f"rings.{name}", slots, "a power of two")
    names_max = settings.requests.names_max
    if names_max & (names_max - 1):
        _refuse("requests.names_max", names_max, "a power of two")
    signatures_max = settings.keys.signatures_max
    if signatures_max & (signatures_max - 1):
        _refuse("keys.signatures_max", signatures_max, "a power of two")
    if settings.keys.master and len(settings.keys.master) < SECRET_LENGTH_MIN:
        _refuse("keys.master", "(hidden)", f"empty or at least {SECRET_LENGTH_MIN} characters")
    if settings.rings.reserve_slots * 2 > settings.rings.commands_slots:
        _refuse("rings.reserve_slots", settings.rings.reserve_slots, "at most half of rings.commands_slots")
    if settings.settlement.backlog_events_max > settings.rings.events_slots // 2:
        _refuse(
            "settlement.backlog_events_max",
            settings.settlement.backlog_events_max,
            f"at most half of rings.events_slots ({settings.rings.events_slots})",
        )
    if settings.auth.secret and len(settings.auth.secret) < SECRET_LENGTH_MIN:
        _refuse("auth.secret", "(hidden)", f"empty or at least {SECRET_LENGTH_MIN} characters")
    _check_token_keys(settings.auth)
    if not re.fullmatch(r"https?://[^?#\s@]+", settings.wallet.url):
        _refuse("wallet.url", settings.wallet.url, "an address such as http://127.0.0.1:8090")
    if settings.wallet.backoff_ms_max < settings.wallet.backoff_ms_min:
        _refuse("wallet.backoff_ms_max", settings.wallet.backoff_ms_max, "at least wallet.backoff_ms_min")
    if bool(settings.http.tls_certificate) != bool(settings.http.tls_key):
        _refuse("http.tls_key", settings.http.tls_key, "set together with http.tls_certificate, or both empty")


def _check_token_keys(auth: Auth) -> None:
    if not auth.algorithms or len(set(auth.algorithms)) != len(auth.algorithms):
        _refuse("auth.algorithms", list(auth.algorithms), "a list that names at least one, and none twice")
    asymmetric = [algorithm for algorithm in auth.algorithms if algorithm != "HS256"]
    if asymmetric and not auth.keys_file:
        _refuse("auth.keys_file", "", f"set when auth.algorithms has {' or '.join(asymmetric)}")


def _refuse(name: str, value: object, allowed: str) -> typing.NoReturn:
    raise SettingsError(f"setting {name} = {value!r} is not allowed: must be {allowed}")


def _set_from_environment(raw: dict[str, Any], name: str, text: str) -> None:
    section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
    if key not in raw.get(section, {}):
        raise SettingsError(f"environment variable {name} names no setting: must be TRADEENGINE_<SECTION>_<SETTING>")
    default = raw[section][key]
    if isinstance(default, list):
        raw[section][key] = [part.strip() for part in text.split(",") if part.strip()]
    elif isinstance(default, str):
        raw[section][key] = text
    else:
        try:
            raw[section][key] = msgspec.convert(text, type(default), strict=False)
        except msgspec.ValidationError:
            kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
            _refuse(f"{section}.{key} (from {name})", text, kind)


def _merge(base: dict[str, Any], other: Mapping[str, Any]) -> None:
    for name, value in other.items():
        if isinstance(value, dict) and isinstance(base.get(name), dict):
            _merge(base[name], value)
        else:
            base[name] = value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path} is not TOML: {error}") from None


def _explain(raw: Mapping[str, Any], message: str, root: type[_Section]) -> str:
    """Turn ``Expected `int` >= 1 - at `$.engine.shards``` into a line with name, value and what is allowed."""
    match = re.fullmatch(r"(.*?)(?: - at `\$\.?(.*)`)?", message, re.DOTALL)
    assert match is not None
    what, name = match.group(1), match.group(2) or ""
    kind = _kind_of(root, name)
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if unknown is not None:
        known = ", ".join(sorted(kind.__struct_fields__))
        return f"setting {'.'.join(filter(None, (name, unknown.group(1))))} is unknown: known here are {known}"
    missing = re.fullmatch(r"Object missing required field `(.*)`", what)
    if missing is not None:
        return f"setting {'.'.join(filter(None, (name, missing.group(1))))} is missing"
    return f"setting {name} = {_value_at(raw, name)!r} is not allowed: must be {_allowed(kind)}"


def _kind_of(root: type[_Section], name: str) -> Any:
    """Annotation of what a name such as ``engine.shards`` or ``symbols[3]`` stands for."""
    kind: Any = root
    for part in re.findall(r"[^.\[\]]+|\[", name):
        # A list's entries are all of one kind: in ``[3]`` the number says nothing.
        if part == "[":
            kind = typing.get_args(kind)[0]
        elif not part.isdigit():
            kind = typing.get_type_hints(kind, include_extras=True)[part]
    return kind


def _allowed(kind: Any) -> str:
    """Say in words what an annotation takes."""
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return "a list"
    if isinstance(kind, type) and issubclass(kind, _Section):
        return "a table of settings"
    bounds = next((part for part in getattr(kind, "__metadata__", ()) if isinstance(part, Meta)), Meta())
    plain = getattr(kind, "__origin__", kind)
    words = {bool: "true or false", str: "text", int: "a whole number", float: "a number"}[plain]
    if bounds.pattern:
        return f"{words} that matches {bounds.pattern}"
    if bounds.min_length:
        return f"{words} that is not empty"
    if bounds.gt is not None:
        words += f" above {bounds.gt}"
        return words if bounds.le is None else f"{words} and at most {bounds.le}"
    if bounds.ge is not None:
        return f"{words} of at least {bounds.ge}" if bounds.le is None else f"{words} from {bounds.ge} to {bounds.le}"
    return words


def _value_at(raw: Any, name: str) -> object:
    for part in re.findall(r"[^.\[\]]+|\[\d+\]", name):
        try:
            raw = raw[int(part[1:-1])] if part.startswith("[") else raw[part]
        except (KeyError, IndexError, TypeError):
            return None
    return raw
