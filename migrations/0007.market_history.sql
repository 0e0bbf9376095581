-- Market data over years, and trades from before the engine's own first one.
-- depends: 0005.cancelled_orders

-- The same as candles_1m, by the hour, kept by the same transactions: what longer candles are made of.
CREATE TABLE candles_1h (
    symbol_id integer NOT NULL,
    hour timestamptz NOT NULL,
    open_ticks bigint NOT NULL,
    high_ticks bigint NOT NULL,
    low_ticks bigint NOT NULL,
    close_ticks bigint NOT NULL,
    volume_lots bigint NOT NULL,
    notional_units bigint NOT NULL,
    trade_count bigint NOT NULL,
    PRIMARY KEY (symbol_id, hour)
) WITH (fillfactor = 80);

INSERT INTO candles_1h (
    symbol_id, hour, open_ticks, high_ticks, low_ticks, close_ticks, volume_lots, notional_units, trade_count)
SELECT symbol_id, date_trunc('hour', minute, 'UTC'), (array_agg(open_ticks ORDER BY minute))[1], max(high_ticks),
    min(low_ticks), (array_agg(close_ticks ORDER BY minute DESC))[1], sum(volume_lots), sum(notional_units),
    sum(trade_count)
FROM candles_1m GROUP BY 1, 2;

-- Trades that were made elsewhere, or before. They are in candles and in public history, never in trades: those are the
-- engine's events and have orders, fees and postings.
CREATE TABLE imported_trades (
    -- Milliseconds since 1970 << 16, plus the place among the trades of that millisecond. Below the id of any own trade.
    id bigint NOT NULL,
    price_ticks bigint NOT NULL,
    quantity_lots bigint NOT NULL,
    symbol_id integer NOT NULL,
    taker_side order_side NOT NULL,
    PRIMARY KEY (symbol_id, id)
);
