-- What settlement writes by the thousand. Ids embed the millisecond in which they were made, so ranges of ids are ranges
-- of time: orders are partitioned by month and trades by day of their id, and a primary key look-up touches one partition.
-- No foreign keys here: settlement is the only writer, and a check per row would cost more than the row.
-- depends: 0002.directory

-- Prices and quantities in ticks and lots; 0 where an order has none (a market order's price). Notional, fee and hold in
-- minor units of the quote asset, the hold of a sell in minor units of the base asset.
CREATE TABLE orders (
    id bigint NOT NULL,
    price_ticks bigint NOT NULL,
    stop_price_ticks bigint NOT NULL,
    quantity_lots bigint NOT NULL,
    filled_lots bigint NOT NULL,
    remaining_lots bigint NOT NULL,
    filled_notional_units bigint NOT NULL,
    fee_units bigint NOT NULL,
    hold_units bigint NOT NULL,
    -- Of the last event that touched it, in its shard.
    sequence bigint NOT NULL,
    -- What a repeat with the same client_order_id must equal.
    content_hash bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    triggered_at timestamptz,
    closed_at timestamptz,
    expires_at timestamptz,
    account_id integer NOT NULL,
    symbol_id integer NOT NULL,
    side order_side NOT NULL,
    type order_type NOT NULL,
    time_in_force time_in_force NOT NULL,
    self_trade_prevention self_trade_prevention NOT NULL,
    status order_status NOT NULL,
    status_reason reason,
    post_only boolean NOT NULL,
    -- A market buy by quote amount: its quantity is what it filled.
    by_quote boolean NOT NULL,
    client_order_id text,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

-- A user's orders, newest first.
CREATE INDEX orders_account ON orders (account_id, id);

-- A user's open orders, and all open orders when the engine starts. On closed_at and not on status, so that a partial fill
-- changes no indexed column.
CREATE INDEX orders_live ON orders (account_id, id) WHERE closed_at IS NULL;

CREATE INDEX orders_client_order_id ON orders (account_id, client_order_id) WHERE client_order_id IS NOT NULL;

CREATE TABLE trades (
    id bigint NOT NULL,
    price_ticks bigint NOT NULL,
    quantity_lots bigint NOT NULL,
    notional_units bigint NOT NULL,
    taker_fee_units bigint NOT NULL,
    maker_fee_units bigint NOT NULL,
    taker_order_id bigint NOT NULL,
    maker_order_id bigint NOT NULL,
    sequence bigint NOT NULL,
    executed_at timestamptz NOT NULL,
    taker_account_id integer NOT NULL,
    maker_account_id integer NOT NULL,
    symbol_id integer NOT NULL,
    taker_side order_side NOT NULL,
    PRIMARY KEY (id)
) PARTITION BY RANGE (id);

CREATE INDEX trades_symbol ON trades (symbol_id, id);

-- The fills of one order. Those of an account are found by its postings, which have an index anyway.

CREATE INDEX trades_taker_order ON trades (taker_order_id, id);

CREATE INDEX trades_maker_order ON trades (maker_order_id, id);

CREATE TABLE candles_1m (
    symbol_id integer NOT NULL,
    minute timestamptz NOT NULL,
    open_ticks bigint NOT NULL,
    high_ticks bigint NOT NULL,
    low_ticks bigint NOT NULL,
    close_ticks bigint NOT NULL,
    volume_lots bigint NOT NULL,
    notional_units bigint NOT NULL,
    trade_count bigint NOT NULL,
    PRIMARY KEY (symbol_id, minute)
) WITH (fillfactor = 80);
