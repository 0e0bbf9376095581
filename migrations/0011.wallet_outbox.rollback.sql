-- What the wallet has not reserved was never seen by the engine, and has no place in the table as it was.
DELETE FROM funding WHERE number IS NULL;

ALTER TABLE funding DROP COLUMN wallet_state, DROP COLUMN wallet_tries, DROP COLUMN wallet_next_try_at,
    DROP COLUMN wallet_error, DROP COLUMN id;

ALTER TABLE funding DROP CONSTRAINT funding_number;

ALTER TABLE funding ADD PRIMARY KEY (number);

DROP TABLE wallet_adjustments;

DROP TABLE wallet_transfers;

DROP TABLE wallet_kind;

DROP TYPE wallet_funding_state;

DROP TYPE wallet_transfer_state;
