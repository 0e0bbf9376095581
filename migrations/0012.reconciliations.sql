-- Reconciliations: asked for by a row, done by the keeper, answered in the row.
-- depends: 0008.access_reasons

CREATE TABLE reconciliations (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    requested_at timestamptz NOT NULL DEFAULT now(),
    -- An administrator's name, or what asked by itself.
    requested_by text NOT NULL,
    began_at timestamptz,
    finished_at timestamptz,
    -- How much was looked at, by kind.
    checked jsonb,
    -- The first thousand; difference_count is of all.
    differences jsonb,
    difference_count bigint,
    -- Why nothing could be compared; then the three above are NULL.
    error text
);

CREATE INDEX reconciliations_open ON reconciliations (id) WHERE finished_at IS NULL;

CREATE INDEX reconciliations_finished ON reconciliations (finished_at);
