"""What the metrics mean, one sentence each: the help texts of ``/metrics``.

The names are in ``ipc.metric_names``. Two families of names are put together there, and so are their sentences here:
risk's refusals by reason, and the front's latencies by handler.
"""

from __future__ import annotations

from typing import Final

REFUSED_PREFIX: Final = "refused_"
ENDPOINT_PREFIX: Final = "endpoint_"
ENDPOINT_SUFFIX: Final = "_latency_us"


def metric_help(role: str, name: str) -> str:
    """Say what a role's metric means. Raises KeyError for one that nobody described."""
    if name.startswith(REFUSED_PREFIX):
        return f"Commands refused by risk with reason {name.removeprefix(REFUSED_PREFIX).upper()}."
    if name.startswith(ENDPOINT_PREFIX):
        handler = name.removeprefix(ENDPOINT_PREFIX).removesuffix(ENDPOINT_SUFFIX)
        return f"Microseconds from a request's arrival to its answer, in the handler {handler}."
    return METRIC_HELP[role][name]


METRIC_HELP: Final[dict[str, dict[str, str]]] = {
    "risk": {
        "commands": "Commands taken from the ingress rings: orders, cancels, amends, deposits, listings.",
        "forwarded": "Commands that passed risk's checks and went on to a matcher.",
        "refused": "Commands that risk refused, for whatever reason.",
        "repeated": "Orders sent again with the same client_order_id, answered with the order that was there.",
        "funded": "Deposits and withdrawals that risk has booked.",
        "events": "Events of the matchers that risk has folded into holds and balances.",
        "open_orders": "Orders that risk knows as live, stops that wait included.",
        "accepting": "1 while every shard takes new orders, 0 while settlement's backlog or a full disk forbids it.",
        "batch_commands": "Commands that risk took in one go.",
        "batch_events": "Events that risk folded in one go.",
    },
    "matcher": {
        "commands": "Commands carried out: each was journaled and synced before.",
        "events": "Events published.",
        "trades": "Trades made.",
        "orders_placed": "Orders taken into the book or filled at once.",
        "groups": "Groups of commands appended to the journal, one sync each.",
        "journal_bytes": "Bytes appended to the journal.",
        "expiries": "Orders whose time was over and for which the matcher gave the command to end them.",
        "busy_us": "Microseconds spent in rounds that did something; the rest of the time the matcher slept.",
        "open_orders": "Orders in the shard's books, stops that wait included.",
        "journal_segment_bytes": "Bytes used of the journal's present segment.",
        "command_sequence": "Number of the last command carried out.",
        "event_sequence": "Number of the last event made.",
        "recovered_commands": "Commands replayed from the journal at the last start.",
        "recovery_ms": "Milliseconds that the last recovery took.",
        "batch_commands": "Commands in one group.",
        "round_latency_us": "Microseconds of one round: journal, sync, match, publish.",
        "sync_latency_us": "Microseconds of one sync of the journal to the disk.",
        "command_latency_us": "Microseconds from risk's time stamp on a command to its published events.",
    },
    "settlement": {
        "events": "Events committed to PostgreSQL.",
        "trades": "Trades committed.",
        "orders": "Rows of orders written or changed.",
        "postings": "Postings written, two or more for each movement of money.",
        "fundings": "Deposits and withdrawals brought to their end.",
        "transactions": "Transactions committed.",
        "errors": "Transactions or connections that failed; what was in them is tried again.",
        "backlog_events": "Events published by risk and matchers and not committed yet.",
        "pending_fundings": "Deposits and withdrawals without an outcome yet.",
        "batch_events": "Events in one transaction.",
        "transaction_latency_us": "Microseconds of one transaction, from its first statement to its commit.",
        "settle_latency_us": "Microseconds from risk's time stamp on a command to the commit of its events.",
    },
    "publisher": {
        "events": "Events folded into books and tickers.",
        "depth_writes": "Times a book's page of depth was rewritten.",
        "ticker_writes": "Times a ticker was rewritten.",
        "messages": "Messages written for the fronts' stream clients.",
        "lapped": "Times events were overwritten before they were read, so that books were fetched anew.",
        "lag_events": "Events published by the matchers and not folded yet.",
        "batch_events": "Events folded in one go.",
        "publish_latency_us": "Microseconds from a book's last event to the page that shows it.",
    },
    "shadow": {
        "commands": "Commands replayed from closed journal segments.",
        "segments": "Journal segments replayed and compared with what the matcher did.",
        "snapshots": "Snapshots written.",
        "mismatches": "Replays that differed from what the matcher did: any is a fault of the machine or the program.",
        "pruned_segments": "Old journal segments removed.",
        "snapshot_sequence": "Number of the last event in the newest snapshot.",
        "segment_latency_ms": "Milliseconds to replay one segment.",
        "snapshot_latency_ms": "Milliseconds to write one snapshot.",
    },
    "keeper": {
        "partitions_made": "Partitions of tables made ahead of time.",
        "partitions_dropped": "Partitions dropped because what is in them is older than it is to be kept.",
        "lock_timeouts": "Partitions left for the next time because somebody was reading them.",
        "depth_rows_stored": "Stored states of books written, for GET /snapshots.",
        "depth_rows_removed": "Stored states of books removed because they are old.",
        "errors": "Chores that failed; they are tried again.",
        "partitions_kept": "Partitions old enough to go that are kept because something in them is still open.",
        "maintenance_done_at_s": "When partitions were last looked after, in seconds since 1970.",
        "depth_done_at_s": "When books were last stored, in seconds since 1970.",
        "maintenance_latency_ms": "Milliseconds of one look after the partitions.",
        "depth_latency_ms": "Milliseconds to store the books that changed.",
        "reconciliations": "Comparisons of ledger, balances, holds and orders that came to a result.",
        "reconciliations_failed": "Comparisons that could not be made.",
        "differences": "Differences that the last comparison found: any is a fault.",
        "reconciled_at_s": "When the last comparison came to its result, in seconds since 1970; 0: none has.",
        "census_us": "Microseconds for which the last comparison held up risk or a matcher, whichever was longer.",
        "reconciliation_latency_ms": "Milliseconds of one comparison.",
    },
    "wallet": {
        "transfers_delivered": "Transfers of trades that the wallet has made.",
        "deposits_reserved": "Deposits that the wallet has reserved.",
        "withdrawals_released": "Withdrawals that the wallet has released.",
        "requests": "Requests to the wallet, repeats included.",
        "unavailable": "Requests that got no answer, or none that could be understood.",
        "refused": "Requests that the wallet refused.",
        "waits": "Transfers put off because a debited user waits for another transfer's credit.",
        "deaths": "Transfers, deposits and withdrawals given up as dead letters.",
        "errors": "Rounds with the database that failed.",
        "outbox_pending": "Transfers, deposits and withdrawals that the wallet has yet to make.",
        "outbox_oldest_age_s": "Seconds for which the oldest of these has waited; 0: none waits.",
        "dead_letters": "Dead letters that nobody has retried or discarded.",
        "breaker_state": "The circuit breaker before the wallet: 0 closed, 1 half open, 2 open.",
        "in_flight": "Requests that wait for the wallet's answer now.",
        "request_latency_us": "Microseconds from a request to the wallet to its answer.",
        "delivery_latency_ms": "Milliseconds from a trade's settlement to the wallet's confirmation.",
        "round_latency_us": "Microseconds of one round with the database: mark what is delivered, read what is due.",
    },
    "front": {
        "requests": "HTTP requests answered.",
        "errors": "HTTP requests answered with a status of 500 or more.",
        "orders_sent": "Orders, cancels and amends sent into the engine.",
        "outcomes_unknown": "Commands whose outcome did not come back in time: answered OUTCOME_UNKNOWN.",
        "lapped": "Times events were overwritten before the front read them, so that outcomes became unknown.",
        "rate_limited": "Requests answered 429: their address or user had asked for too much.",
        "stream_messages": "Messages passed to stream clients, counted once for each that gets it.",
        "stream_snapshots": "Books sent whole to stream clients, at a beginning or after a gap.",
        "stream_lapped": "Times the publisher's messages were overwritten before the front read them.",
        "in_flight": "Commands that wait for their outcome now.",
        "connections": "Connections open now, those of streams included.",
        "stream_clients": "Stream clients connected now.",
        "stream_channels": "Channels that at least one stream client listens to now.",
        "stream_waiting_bytes": "Bytes that stream clients have not taken yet.",
        "request_latency_us": "Microseconds from an HTTP request's arrival to its answer.",
        "command_latency_us": "Microseconds from sending a command into the engine to its outcome.",
        "query_latency_us": "Microseconds of one query of the database.",
        "stream_latency_us": "Microseconds from risk's time stamp on a command to its message being on its way.",
    },
    "operator": {
        "symbols_listed": "Symbols that the matchers know now.",
        "memory_bytes": "Size of all rings and tables in shared memory.",
    },
    "client": {},
}
