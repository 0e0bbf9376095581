-- Words that the tables speak. The labels are those of the API: enumerations in lower case, reasons in upper case.
-- They repeat tradeengine.core.records; a test holds both together.

CREATE TYPE order_side AS ENUM ('buy', 'sell');

CREATE TYPE order_type AS ENUM ('limit', 'market', 'stop', 'stop_limit');

CREATE TYPE time_in_force AS ENUM ('gtc', 'ioc', 'fok', 'gtd');

CREATE TYPE self_trade_prevention AS ENUM ('cancel_taker', 'cancel_maker', 'cancel_both');

CREATE TYPE order_status AS ENUM ('pending', 'open', 'partially_filled', 'filled', 'cancelled', 'rejected');

CREATE TYPE trading_state AS ENUM ('open', 'cancel_only', 'halted');

CREATE TYPE symbol_status AS ENUM ('pending', 'listed');

CREATE TYPE funding_kind AS ENUM ('deposit', 'withdrawal');

CREATE TYPE funding_status AS ENUM ('pending', 'settled', 'refused');

CREATE TYPE reason AS ENUM (
    'USER', 'CANCELLED_ALL', 'EXPIRED', 'IOC_NOT_FILLED', 'IOC_REMAINDER', 'COLLAR', 'BUDGET', 'NO_LIQUIDITY', 'SELF_TRADE',
    'FOK_NOT_FILLED', 'POST_ONLY_WOULD_MATCH', 'PRICE_OUT_OF_COLLAR', 'SYMBOL_HALTED', 'CANCEL_ONLY', 'BOOK_FULL',
    'INVALID_REQUEST', 'INVALID_COMBINATION', 'NUMBER_OUT_OF_RANGE', 'BELOW_MIN_NOTIONAL', 'SYMBOL_NOT_FOUND',
    'ORDER_NOT_FOUND', 'QUANTITY_NOT_ABOVE_FILLED', 'INSUFFICIENT_BALANCE', 'CLIENT_ORDER_ID_REUSED', 'LIMIT_EXCEEDED',
    'ENGINE_OVERLOADED', 'SETTLEMENT_BACKLOG', 'DEADLINE_PASSED', 'SYMBOL_EXISTS'
);
