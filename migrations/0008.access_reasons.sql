-- Reasons of trading limits, suspended accounts and timers.
-- depends: 0006.depth_snapshots 0007.market_history

ALTER TYPE reason ADD VALUE 'CANCEL_ALL_AFTER' AFTER 'SELF_TRADE';

ALTER TYPE reason ADD VALUE 'TWO_FACTOR_REQUIRED';

ALTER TYPE reason ADD VALUE 'ACCOUNT_SUSPENDED';
