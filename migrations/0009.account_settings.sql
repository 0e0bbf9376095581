-- What an account may do, and marks in its statement.
-- depends: 0008.access_reasons

INSERT INTO counters (name, value) VALUES ('account_settings', 0);

-- State, not changes: whoever has seen the newest row of an account needs no other. The amounts are notionals in whichever
-- quote asset an order has; NULL: no limit. In the engine an amount is mantissa × 10^-scale, scale at most 18 and the
-- mantissa at most 2^61.
CREATE TABLE account_settings (
    account_id integer PRIMARY KEY REFERENCES accounts,
    -- Grows with every change of any account, without gaps and in commit order: who has seen one has seen all below it.
    version bigint NOT NULL UNIQUE,
    suspended boolean NOT NULL DEFAULT false,
    -- Of the last suspension or resumption, and who asked for it.
    suspended_reason text,
    suspended_by text,
    max_order_size numeric CHECK (max_order_size >= 0 AND min_scale(max_order_size) <= 18
        AND max_order_size * 10::numeric ^ min_scale(max_order_size) <= 2305843009213693952),
    max_daily_volume numeric CHECK (max_daily_volume >= 0 AND min_scale(max_daily_volume) <= 18
        AND max_daily_volume * 10::numeric ^ min_scale(max_daily_volume) <= 2305843009213693952),
    requires_2fa_above numeric CHECK (requires_2fa_above >= 0 AND min_scale(requires_2fa_above) <= 18
        AND requires_2fa_above * 10::numeric ^ min_scale(requires_2fa_above) <= 2305843009213693952),
    max_open_orders bigint CHECK (max_open_orders >= 0),
    -- Grows whenever a key of the account is revoked.
    keys_version bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- What all of an account's postings up to and with a transaction id add up to, now and then: a page of a statement begins
-- at the mark before it, and no page reads a whole history. A mark has a row for each asset that the account had then.
CREATE TABLE statement_marks (
    account_id integer NOT NULL,
    transaction_id bigint NOT NULL,
    asset_id smallint NOT NULL,
    balance_units bigint NOT NULL,
    PRIMARY KEY (account_id, transaction_id, asset_id)
);

-- From a posting to the request that it came from.
CREATE INDEX funding_transaction ON funding (transaction_id) WHERE transaction_id IS NOT NULL;
