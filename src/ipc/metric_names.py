"""Names of what each role counts and measures: the supervisor lays out the metric pages by them.

What each means is in ``ipc.metric_help``.

Every name ends in its unit. ``/metrics`` shows them as ``tradeengine_<role>_<name>``. A role asks its page for a name
(``page.counter("commands")``) and gets its place; a name that is not here is an error at the actor's start.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tradeengine.core.records import Reason


class RoleMetrics(NamedTuple):
    """What one role's page holds."""

    counters: tuple[str, ...] = ()
    gauges: tuple[str, ...] = ()
    histograms: tuple[str, ...] = ()


FRONT_HANDLERS: Final = (
    "place_order",
    "test_order",
    "list_orders",
    "get_order",
    "get_order_by_client_id",
    "cancel_order",
    "amend_order",
    "cancel_all_orders",
    "list_balances",
    "show_order_book",
    "show_snapshot",
    "show_ticker",
    "list_trades",
    "show_trade",
    "list_symbols",
    "list_candles",
    "list_past_trades",
    "show_day",
)
"""Handlers of the front that have a latency histogram of their own."""

ROLE_METRICS: Final[dict[str, RoleMetrics]] = {
    "risk": RoleMetrics(
        counters=(
            *("commands", "forwarded", "refused", "repeated", "funded", "events"),
            *(f"refused_{reason.name.lower()}" for reason in Reason if reason >= Reason.INVALID_REQUEST),
        ),
        gauges=("open_orders", "accepting"),
        histograms=("batch_commands", "batch_events"),
    ),
    "matcher": RoleMetrics(
        counters=("commands", "events", "trades", "orders_placed", "groups", "journal_bytes", "expiries", "busy_us"),
        gauges=(
            "open_orders",
            "journal_segment_bytes",
            "command_sequence",
            "event_sequence",
            "recovered_commands",
            "recovery_ms",
        ),
        histograms=("batch_commands", "round_latency_us", "sync_latency_us", "command_latency_us"),
    ),
    "settlement": RoleMetrics(
        counters=("events", "trades", "orders", "postings", "fundings", "transactions", "errors"),
        gauges=("backlog_events", "pending_fundings"),
        histograms=("batch_events", "transaction_latency_us", "settle_latency_us"),
    ),
    "publisher": RoleMetrics(
        counters=("events", "depth_writes", "ticker_writes", "messages", "lapped"),
        gauges=("lag_events",),
        histograms=("batch_events", "publish_latency_us"),
    ),
    "shadow": RoleMetrics(
        counters=("commands", "segments", "snapshots", "mismatches", "pruned_segments"),
        gauges=("snapshot_sequence",),
        histograms=("segment_latency_ms", "snapshot_latency_ms"),
    ),
    "keeper": RoleMetrics(
        counters=(
            *("partitions_made", "partitions_dropped", "lock_timeouts"),
            *("depth_rows_stored", "depth_rows_removed", "errors"),
            *("reconciliations", "reconciliations_failed"),
        ),
        gauges=(
            *("partitions_kept", "maintenance_done_at_s", "depth_done_at_s"),
            *("differences", "reconciled_at_s", "census_us"),
        ),
        histograms=("maintenance_latency_ms", "depth_latency_ms", "reconciliation_latency_ms"),
    ),
    "wallet": RoleMetrics(
        counters=(
            *("transfers_delivered", "deposits_reserved", "withdrawals_released"),
            *("requests", "unavailable", "refused", "waits", "deaths", "errors"),
        ),
        gauges=("outbox_pending", "outbox_oldest_age_s", "dead_letters", "breaker_state", "in_flight"),
        histograms=("request_latency_us", "delivery_latency_ms", "round_latency_us"),
    ),
    "front": RoleMetrics(
        counters=(
            *("requests", "errors", "orders_sent", "outcomes_unknown", "lapped", "rate_limited"),
            *("stream_messages", "stream_snapshots", "stream_lapped"),
        ),
        gauges=("in_flight", "connections", "stream_clients", "stream_channels", "stream_waiting_bytes"),
        histograms=(
            "request_latency_us",
            "command_latency_us",
            "query_latency_us",
            "stream_latency_us",
            *(f"endpoint_{handler}_latency_us" for handler in FRONT_HANDLERS),
        ),
    ),
    "operator": RoleMetrics(gauges=("symbols_listed", "memory_bytes")),
    "client": RoleMetrics(),
}
