DROP INDEX wallet_adjustments_account;

DROP INDEX wallet_transfers_pending;

CREATE INDEX wallet_transfers_pending ON wallet_transfers (id) WHERE state = 'pending';

ALTER TABLE wallet_transfers DROP COLUMN executed_ns;
