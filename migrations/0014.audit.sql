-- What administrators did: rows are only ever added, and each holds the hash of the one before it.
-- depends: 0013.wallet_order

CREATE TABLE audit (
    -- Without gaps, beginning with 1.
    id bigint PRIMARY KEY CHECK (id > 0),
    -- Given when the action began, so that nothing is added twice.
    action_id uuid NOT NULL UNIQUE,
    -- When the action began; nearly, but not always, in the order of the ids.
    time timestamptz NOT NULL CHECK (isfinite(time)),
    actor text NOT NULL,
    role text NOT NULL,
    -- token, token:KEY, key:ID or shell.
    credential text NOT NULL,
    two_factor boolean NOT NULL,
    action text NOT NULL,
    target text,
    -- What was asked for.
    details jsonb,
    before jsonb,
    after jsonb,
    reason text,
    request_id text NOT NULL,
    address text NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('ok', 'refused', 'failed', 'unknown')),
    code text,
    previous_hash bytea NOT NULL CHECK (octet_length(previous_hash) = 32),
    -- SHA-256; see docs/audit.md.
    hash bytea NOT NULL CHECK (octet_length(hash) = 32)
);

CREATE INDEX audit_actor ON audit (actor, id);

CREATE INDEX audit_action ON audit (action, id);

CREATE INDEX audit_time ON audit (time, id);

CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of audit are never changed or removed' USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

-- Also for a session that says that it is a replica.
ALTER TABLE audit ENABLE ALWAYS TRIGGER audit_is_append_only;

REVOKE UPDATE, DELETE, TRUNCATE ON audit FROM PUBLIC, CURRENT_USER;
