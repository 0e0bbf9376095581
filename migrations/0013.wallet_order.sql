-- In which order the trades of the outbox happened: a wallet is told of them so that every transfer finds its money.
-- depends: 0011.wallet_outbox

-- When risk let the order pass that made the trade, nanoseconds since 1970 by risk's clock, which never goes back: what a
-- trade is paid with was there before. Of the trades before this migration the ids know it to the millisecond.
ALTER TABLE wallet_transfers ADD COLUMN executed_ns bigint;

UPDATE wallet_transfers SET executed_ns = ((id >> 22) + 1704067200000) * 1000000;

ALTER TABLE wallet_transfers ALTER COLUMN executed_ns SET NOT NULL;

DROP INDEX wallet_transfers_pending;

CREATE INDEX wallet_transfers_pending ON wallet_transfers (executed_ns, id) WHERE state = 'pending';

CREATE INDEX wallet_adjustments_account ON wallet_adjustments (account_id, asset_id);
