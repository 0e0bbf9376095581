-- Who and what exists: assets, symbols, accounts. Ids are small and dense, because the engine's arrays are indexed by them.
-- depends: 0001.types

-- Numbers that must have no gaps come from a row that the transaction locks, so that they commit in their order.
CREATE TABLE counters (
    name text PRIMARY KEY,
    value bigint NOT NULL
);

-- The last number given out: users' accounts begin at 16, funding at 1.
INSERT INTO counters (name, value) VALUES ('account', 15), ('funding', 0), ('asset', -1), ('symbol', -1);

CREATE TABLE assets (
    id integer PRIMARY KEY CHECK (id >= 0),
    name text NOT NULL UNIQUE,
    -- Decimal places of the minor unit in which every amount is kept.
    places smallint NOT NULL CHECK (places BETWEEN 0 AND 18),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE symbols (
    id integer PRIMARY KEY CHECK (id >= 0),
    name text NOT NULL UNIQUE,
    base_asset_id integer NOT NULL REFERENCES assets,
    quote_asset_id integer NOT NULL REFERENCES assets CHECK (quote_asset_id <> base_asset_id),
    shard smallint NOT NULL CHECK (shard BETWEEN 0 AND 63),
    -- pending: asked for; listed: the matcher knows it and settlement has seen its event.
    status symbol_status NOT NULL DEFAULT 'pending',
    trading_state trading_state NOT NULL DEFAULT 'open',
    -- For people: one tick and one lot in decimals. They follow from the next two and the places of the assets.
    tick text NOT NULL,
    lot text NOT NULL,
    tick_lot_units bigint NOT NULL CHECK (tick_lot_units > 0),
    lot_units bigint NOT NULL CHECK (lot_units > 0),
    price_ticks_max bigint NOT NULL,
    quantity_lots_min bigint NOT NULL,
    quantity_lots_max bigint NOT NULL,
    notional_units_min bigint NOT NULL,
    maker_fee_ppm integer NOT NULL,
    taker_fee_ppm integer NOT NULL,
    collar_ppm integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE accounts (
    id integer PRIMARY KEY CHECK (id > 0),
    name text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The engine's own: 1 receives the fees, 2 is the other side of deposits and withdrawals. No token can name them.
INSERT INTO accounts (id, name) VALUES (1, '*exchange*'), (2, '*outside*');
