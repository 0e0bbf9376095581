DROP TYPE reason;

DROP TYPE funding_status;

DROP TYPE funding_kind;

DROP TYPE symbol_status;

DROP TYPE trading_state;

DROP TYPE order_status;

DROP TYPE self_trade_prevention;

DROP TYPE time_in_force;

DROP TYPE order_type;

DROP TYPE order_side;
