-- Keys of programs. Of an HMAC key the secret is here, encrypted; of an Ed25519 key only its public half.
-- depends: 0008.access_reasons

CREATE TABLE api_keys (
    id bigint PRIMARY KEY CHECK (id > 0),
    account_id integer NOT NULL REFERENCES accounts,
    name text NOT NULL,
    algorithm text NOT NULL CHECK (algorithm IN ('hmac-sha256', 'ed25519')),
    permissions text[] NOT NULL CHECK (permissions <@ ARRAY['read', 'trade'] AND cardinality(permissions) > 0),
    -- From where it may be used; none: from anywhere.
    addresses cidr[] NOT NULL,
    -- Nonce, then what AES-GCM made of the secret.
    sealed_secret bytea,
    public_key bytea,
    -- Whether its maker had signed in with a second factor.
    two_factor boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz,
    CHECK ((algorithm = 'hmac-sha256') = (sealed_secret IS NOT NULL)),
    CHECK ((algorithm = 'ed25519') = (public_key IS NOT NULL))
);

CREATE INDEX api_keys_account ON api_keys (account_id, id);
