-- Why a symbol is halted, and that an administrator cancelled an order.
-- depends: 0013.wallet_order

ALTER TYPE reason ADD VALUE 'ADMINISTRATOR' AFTER 'CANCEL_ALL_AFTER';

-- Of the present trading state: the event that set it (-1: none is known), when, why, and, where a command for all symbols
-- set it, what it was before.
ALTER TABLE symbols
    ADD COLUMN trading_sequence bigint NOT NULL DEFAULT -1,
    ADD COLUMN trading_changed_at timestamptz,
    ADD COLUMN trading_reason text,
    ADD COLUMN trading_before_all trading_state;
