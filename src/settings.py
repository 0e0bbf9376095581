"""Settings: one immutable tree, read once at start (``settings_files``) and handed to every actor.

Rule 1: ``config/default.toml`` owns the defaults and the text that explains them; this file owns types and bounds.
It refuses to know what a setting is used for, and where it was read.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

SECRET_LENGTH_MIN: Final = 32

Count = Annotated[int, Meta(ge=1)]
Slots = Annotated[int, Meta(ge=16, le=1 << 28)]
Seconds = Annotated[float, Meta(gt=0)]
LoggingActor = Annotated[
    str, Meta(pattern=r"^(risk|matcher|settlement|publisher|front|shadow|keeper|wallet|supervisor)(-\d+)?$")
]
TokenAlgorithm = Literal["HS256", "RS256", "EdDSA"]


class SettingsError(ValueError):
    """A setting that is refused; the message names it, its value and what is allowed."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the settings file. No field has a default here: the defaults are in ``config/default.toml``."""


class Engine(Section, frozen=True):
    """Size and place of the engine."""

    data_dir: Annotated[str, Meta(min_length=1)]
    shards: Annotated[int, Meta(ge=1, le=64)]
    fronts: Annotated[int, Meta(ge=1, le=32)]


class Http(Section, frozen=True):
    """The listening socket and what requests may do."""

    host: Annotated[str, Meta(min_length=1)]
    port: Annotated[int, Meta(ge=0, le=65535)]
    backlog: Annotated[int, Meta(ge=1, le=65535)]
    body_bytes_max: Annotated[int, Meta(ge=1024)]
    work_requests_max: Annotated[int, Meta(ge=16, le=65_536)]
    command_timeout_ms: Annotated[int, Meta(ge=1, le=600_000)]
    barrier_timeout_ms: Annotated[int, Meta(ge=1, le=600_000)]
    stop_timeout_s: Seconds
    cors_origins: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    tls_certificate: str
    tls_key: str
    metrics_token: str


class Auth(Section, frozen=True):
    """How tokens are signed and checked."""

    algorithms: tuple[TokenAlgorithm, ...]
    keys_file: str
    issuer: str
    audience: str
    secret: str
    token_lifetime_s: Count
    leeway_s: Annotated[int, Meta(ge=0, le=300)]


class Keys(Section, frozen=True):
    """API keys and the requests that are signed with them."""

    master: str
    per_account_max: Annotated[int, Meta(ge=1, le=10_000)]
    window_ms_max: Annotated[int, Meta(ge=5000, le=60_000)]
    signatures_max: Annotated[int, Meta(ge=64, le=1 << 28)]


class Limits(Section, frozen=True):
    """What is allocated at start."""

    symbols_max: Annotated[int, Meta(ge=1, le=65_536)]
    assets_max: Annotated[int, Meta(ge=2, le=4096)]
    accounts_max: Annotated[int, Meta(ge=32, le=1 << 24)]
    orders_max: Annotated[int, Meta(ge=16, le=1 << 26)]
    levels_max: Annotated[int, Meta(ge=16, le=1 << 20)]
    open_orders_max: Count
    client_ids_max: Annotated[int, Meta(ge=16, le=1 << 28)]
    clients_max: Annotated[int, Meta(ge=0, le=32)]


class Rings(Section, frozen=True):
    """Slots of each kind of ring: powers of two."""

    ingress_slots: Slots
    commands_slots: Slots
    events_slots: Slots
    risk_events_slots: Slots
    feed_slots: Slots
    reserve_slots: Annotated[int, Meta(ge=1)]


class Wait(Section, frozen=True):
    """How actors wait."""

    spin_us: Annotated[int, Meta(ge=0, le=1_000_000)]
    timeout_ms: Annotated[int, Meta(ge=1, le=10_000)]


class Journal(Section, frozen=True):
    """Durability of commands."""

    sync: bool
    group_commands_max: Annotated[int, Meta(ge=1, le=1 << 20)]
    segment_bytes: Annotated[int, Meta(ge=65_536, le=1 << 34)]
    retain_h: Annotated[int, Meta(ge=0)]
    free_disk_bytes_min: Annotated[int, Meta(ge=0)]


class Snapshots(Section, frozen=True):
    """Snapshots of the books."""

    keep_count: Annotated[int, Meta(ge=1, le=1000)]


class Settlement(Section, frozen=True):
    """The way into PostgreSQL."""

    batch_events_max: Annotated[int, Meta(ge=1, le=1 << 20)]
    backlog_events_max: Count
    funding_interval_ms: Annotated[int, Meta(ge=1, le=10_000)]


class Publisher(Section, frozen=True):
    """How often tables are rewritten."""

    depth_interval_ms: Annotated[int, Meta(ge=0, le=10_000)]
    ticker_interval_ms: Annotated[int, Meta(ge=1, le=60_000)]
    candle_interval_ms: Annotated[int, Meta(ge=1, le=60_000)]


class Requests(Section, frozen=True):
    """How many requests are answered: token buckets, for all fronts together. A rate of 0: no limit."""

    user_per_s: Annotated[int, Meta(ge=0, le=1_000_000)]
    user_burst: Annotated[int, Meta(ge=1, le=10_000_000)]
    address_per_s: Annotated[int, Meta(ge=0, le=1_000_000)]
    address_burst: Annotated[int, Meta(ge=1, le=10_000_000)]
    cancel_factor: Annotated[int, Meta(ge=1, le=1000)]
    names_max: Annotated[int, Meta(ge=64, le=1 << 24)]


class Streams(Section, frozen=True):
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


class Keeper(Section, frozen=True):
    """What is made ahead in PostgreSQL, what is stored, and how long things are kept. 0: for ever, or not at all."""

    partition_months_ahead: Annotated[int, Meta(ge=1, le=120)]
    partition_days_ahead: Annotated[int, Meta(ge=1, le=366)]
    retain_orders_months: Annotated[int, Meta(ge=0, le=1200)]
    retain_trades_days: Annotated[int, Meta(ge=0, le=36_500)]
    depth_snapshot_interval_s: Annotated[float, Meta(ge=0, le=86_400)]
    depth_snapshot_levels: Annotated[int, Meta(ge=1, le=1000)]
    retain_depth_days: Annotated[int, Meta(ge=0, le=36_500)]
    reconcile_interval_s: Annotated[float, Meta(ge=0, le=86_400)]
    audit_interval_s: Annotated[float, Meta(ge=0, le=86_400)]
    reconcile_timeout_s: Annotated[float, Meta(gt=0, le=3600)]


class Database(Section, frozen=True):
    """PostgreSQL."""

    dsn: str
    session_dsn: str
    pool_size: Annotated[int, Meta(ge=1, le=256)]
    connection_lifetime_s: Annotated[int, Meta(ge=0, le=604_800)]
    statement_timeout_ms: Annotated[int, Meta(ge=1, le=3_600_000)]
    lock_timeout_ms: Annotated[int, Meta(ge=1, le=3_600_000)]
    idle_in_transaction_timeout_ms: Annotated[int, Meta(ge=100, le=3_600_000)]
    connect_timeout_s: Annotated[int, Meta(ge=1, le=600)]
    keepalive_s: Annotated[int, Meta(ge=1, le=3600)]

    @property
    def direct_dsn(self) -> str:
        """The address for who needs a session that stays."""
        return self.session_dsn or self.dsn

    @property
    def is_pooled(self) -> bool:
        """Whether a pooler stands before the database, which gives each transaction a session of its own."""
        return self.session_dsn not in {"", self.dsn}


class Supervisor(Section, frozen=True):
    """Watching and restarting actors."""

    heartbeat_timeout_s: Seconds
    restart_backoff_ms: Annotated[int, Meta(ge=0, le=60_000)]
    restart_backoff_ms_max: Annotated[int, Meta(ge=0, le=600_000)]
    restart_count_max: Annotated[int, Meta(ge=0)]
    restart_window_s: Seconds
    stop_timeout_s: Seconds
    profile: str


class Wallet(Section, frozen=True):
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

    @property
    def taken_name(self) -> str | None:
        """A name that no user of the exchange may have: at the wallet their money would be one with the fees."""
        return self.exchange_user if self.kind == "http" else None


class Demo(Section, frozen=True):
    """Demo traders."""

    enabled: bool
    traders: Annotated[int, Meta(ge=2, le=64)]
    orders_per_s: Annotated[float, Meta(gt=0, le=100_000)]


class Log(Section, frozen=True):
    """Log lines on standard error."""

    level: Literal["debug", "info", "warning", "error"]
    debug: tuple[LoggingActor, ...]
    access: bool
    format: Literal["console", "json"]

    def level_of(self, actor: str) -> int:
        """Give the level of an actor, as ``logging`` counts levels: by its name, or its role's."""
        told = {actor, actor.partition("-")[0]} & set(self.debug)
        return logging.DEBUG if told else int(getattr(logging, self.level.upper()))


class Settings(Section, frozen=True):
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
    def audit_dir(self) -> Path:
        """Folder of what belongs to the audit log and is not in the database: what waits for it, and its anchors."""
        return self.data_dir / "audit"

    @property
    def wallet_dir(self) -> Path:
        """Folder of the reference wallet service; by the secret in it the engine and the service know each other."""
        return self.data_dir / "wallet"


class AssetSeed(Section, frozen=True):
    """An asset of ``symbols.toml``."""

    name: str
    places: int


class SymbolSeed(Section, frozen=True):
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


class Seeds(Section, frozen=True):
    """What a new database starts with."""

    assets: tuple[AssetSeed, ...]
    symbols: tuple[SymbolSeed, ...]
