-- What books looked like, now and then: the keeper stores a row when a book changed since the last one, so a row holds from
-- taken_at until the next one of its symbol. Not partitioned: a question is one look into the primary key, and old rows go
-- one symbol at a time, because the newest of them still tells how the first kept day began.
-- depends: 0005.cancelled_orders

CREATE TABLE depth_snapshots (
    symbol_id integer NOT NULL,
    -- Whole milliseconds, as the API shows them; at or after the moment in which the book was read.
    taken_at timestamptz NOT NULL,
    -- Of the shard's last event in it.
    sequence bigint NOT NULL,
    -- Levels, best first: {{price in ticks, quantity in lots}, …}.
    bids bigint[] NOT NULL,
    asks bigint[] NOT NULL,
    PRIMARY KEY (symbol_id, taken_at)
);
