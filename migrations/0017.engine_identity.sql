-- Which engine this database is of: the same identity is in the data directory and in every journal segment, so that what is
-- of two engines is not run as one. The row is written by a start: whoever has the data directory may have the identity too.
-- depends: 0016.trading_states

CREATE TABLE engine_identity (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    identity uuid NOT NULL
);
