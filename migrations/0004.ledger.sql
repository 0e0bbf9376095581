-- The ledger, double entry: the postings of a transaction sum to zero per asset. A trade's transaction is its trade id; a
-- deposit's or withdrawal's is an id of the same shape, made from the time at which risk decided, so that an account's
-- statement is in order of transaction_id. A hold is no posting: it is the sum over live orders.
-- depends: 0003.orders_and_trades

CREATE TABLE postings (
    transaction_id bigint NOT NULL,
    amount_units bigint NOT NULL,
    account_id integer NOT NULL,
    asset_id smallint NOT NULL,
    -- T: a trade, F: funding.
    kind "char" NOT NULL
) PARTITION BY RANGE (transaction_id);

-- A user's statement. The engine's own accounts (1, 2) are in every transaction and nobody pages through them.
CREATE INDEX postings_account ON postings (account_id, transaction_id) WHERE account_id >= 16;

-- Postings arrive nearly in order of their transaction, so a block range index finds one transaction and costs nothing.
CREATE INDEX postings_transaction ON postings USING brin (transaction_id) WITH (pages_per_range = 16, autosummarize = on);

-- The sum of an account's postings, kept by the transaction that writes them. Account 2 is negative, and others may be for a
-- moment: settlement takes a shard's events in order, but not two shards' in the order of their causes.
CREATE TABLE balances (
    account_id integer NOT NULL,
    asset_id smallint NOT NULL,
    total_units bigint NOT NULL,
    PRIMARY KEY (account_id, asset_id)
) WITH (fillfactor = 50);

-- How far PostgreSQL has followed each shard's events: the sequence of the next event to settle. Shard -1: risk's own ring.
CREATE TABLE settlement_cursors (
    shard smallint PRIMARY KEY CHECK (shard BETWEEN -1 AND 63),
    sequence bigint NOT NULL CHECK (sequence >= 0)
) WITH (fillfactor = 50);

INSERT INTO settlement_cursors (shard, sequence) VALUES (-1, 0);

-- Money in and out. A row is pending until risk has decided and settlement has posted what it decided.
CREATE TABLE funding (
    -- Gapless and in commit order: risk has seen every number below the last one it has seen.
    number bigint PRIMARY KEY,
    kind funding_kind NOT NULL,
    reference text NOT NULL,
    account_id integer NOT NULL REFERENCES accounts,
    asset_id integer NOT NULL REFERENCES assets,
    amount_units bigint NOT NULL CHECK (amount_units > 0),
    status funding_status NOT NULL DEFAULT 'pending',
    status_reason reason,
    transaction_id bigint,
    requested_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz,
    UNIQUE (kind, reference)
);

CREATE INDEX funding_pending ON funding (number) WHERE status = 'pending';

CREATE INDEX funding_account ON funding (account_id, number);
