-- The books of the reference wallet service, in a schema of their own. Double entry: every change of money is an entry
-- with postings that sum to zero per asset. Beside the two parts of each user's money there are two accounts of nobody,
-- which may be negative: 'outside', where deposits come from, and 'clearing', which is what single debits and credits
-- are posted against; it is zero when every transfer that went leg by leg is whole.

CREATE TABLE entries (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    -- The caller's; unique per kind.
    id text NOT NULL,
    -- What was asked for, in one spelling: a repeat must equal it.
    content text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (kind, id)
);

CREATE TABLE balances (
    user_name text NOT NULL,
    asset text NOT NULL,
    part text NOT NULL CHECK (part IN ('available', 'reserved', 'outside', 'clearing')),
    amount numeric NOT NULL,
    CONSTRAINT insufficient CHECK (amount >= 0 OR part IN ('outside', 'clearing')),
    -- As much as one amount may be; the accounts of nobody are the sum of all.
    CONSTRAINT too_large CHECK (amount < 1e20 OR part IN ('outside', 'clearing')),
    PRIMARY KEY (user_name, asset, part)
) WITH (fillfactor = 50);

CREATE TABLE postings (
    entry_number bigint NOT NULL,
    line smallint NOT NULL,
    user_name text NOT NULL,
    asset text NOT NULL,
    part text NOT NULL,
    amount numeric(38, 18) NOT NULL,
    PRIMARY KEY (entry_number, line)
);

-- Makes entries together, or none of them: raises check_violation when a part of someone's money would be negative in the
-- end, or too large; what one of them credits another may debit. Returns those that are made; what was there before is left out.
-- lines: [{"user_name", "asset", "part", "amount"}, …] of each entry.
CREATE FUNCTION make_together(kinds text[], ids text[], contents text[], lines jsonb[])
RETURNS TABLE (made_number bigint, made_kind text, made_id text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    numbers bigint[];
    account_count integer;
    updated_count integer;
BEGIN
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest(kinds, ids, contents, lines) WITH ORDINALITY AS a (kind, id, content, lines, place)
    ), made AS (
        INSERT INTO entries (kind, id, content) SELECT a.kind, a.id, a.content FROM asked a ORDER BY place
        ON CONFLICT (kind, id) DO NOTHING RETURNING entries.number, entries.kind, entries.id
    ), posted AS (
        INSERT INTO postings (entry_number, line, user_name, asset, part, amount)
        SELECT m.number, l.line, l.fields ->> 'user_name', l.fields ->> 'asset', l.fields ->> 'part',
               (l.fields ->> 'amount')::numeric
        FROM made m
        JOIN LATERAL (
            SELECT a.lines FROM asked a WHERE (a.kind, a.id) = (m.kind, m.id) ORDER BY a.place LIMIT 1
        ) AS first ON true
        CROSS JOIN LATERAL jsonb_array_elements(first.lines) WITH ORDINALITY AS l (fields, line)
    )
    SELECT array_agg(m.number) INTO numbers FROM made m;

    WITH changes AS MATERIALIZED (
        SELECT p.user_name, p.asset, p.part, sum(p.amount) AS amount
        FROM postings p WHERE p.entry_number = ANY (numbers) GROUP BY 1, 2, 3
    ), updated AS (
        UPDATE balances b SET amount = b.amount + c.amount FROM changes c
        WHERE (b.user_name, b.asset, b.part) = (c.user_name, c.asset, c.part)
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM changes), (SELECT count(*) FROM updated) INTO account_count, updated_count;
    IF updated_count < account_count THEN
        INSERT INTO balances (user_name, asset, part, amount)
        SELECT p.user_name, p.asset, p.part, sum(p.amount)
        FROM postings p WHERE p.entry_number = ANY (numbers)
        AND NOT EXISTS (SELECT FROM balances b WHERE (b.user_name, b.asset, b.part) = (p.user_name, p.asset, p.part))
        GROUP BY 1, 2, 3;
    END IF;
    IF EXISTS (
        SELECT FROM postings p WHERE p.entry_number = ANY (numbers)
        GROUP BY p.entry_number, p.asset HAVING sum(p.amount) <> 0
    ) THEN
        RAISE EXCEPTION 'the postings of an entry do not sum to zero';
    END IF;
    RETURN QUERY SELECT e.number, e.kind, e.id FROM entries e WHERE e.number = ANY (numbers);
END
$$;

-- Makes entries, each wholly or not at all, in one transaction; returns for each, in their order, what became of it, with
-- the number and time of the entry that is there: 'made', 'repeated' (it was there before), 'reused' (another content was
-- there before), 'insufficient' or 'too_large' (nothing was done: a part of someone's money would be that).
CREATE FUNCTION make_entries(kinds text[], ids text[], contents text[], lines jsonb[])
RETURNS TABLE (outcome text, number bigint, made_at timestamptz)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    made_numbers bigint[] := '{}';
    more bigint[];
    reason text;
    reasons text[] := '{}';
BEGIN
    -- One at a time, so that two services on one database cannot lock each other out.
    PERFORM pg_advisory_xact_lock(8389754676633104385);
    BEGIN
        SELECT array_agg(made_number) INTO made_numbers FROM make_together(kinds, ids, contents, lines);
    EXCEPTION WHEN check_violation THEN
        FOR i IN 1 .. array_length(kinds, 1) LOOP
            BEGIN
                SELECT array_agg(made_number) INTO more
                FROM make_together(kinds[i:i], ids[i:i], contents[i:i], lines[i:i]);
                made_numbers := made_numbers || more;
            EXCEPTION WHEN check_violation THEN
                GET STACKED DIAGNOSTICS reason = CONSTRAINT_NAME;
                reasons[i] := reason;
            END;
        END LOOP;
    END;
    RETURN QUERY
    SELECT CASE
               WHEN e.number IS NULL THEN reasons[a.place]
               WHEN e.content <> a.content THEN 'reused'
               WHEN e.number = ANY (made_numbers) AND a.is_first THEN 'made'
               ELSE 'repeated'
           END, e.number, e.made_at
    FROM (
        SELECT u.*, row_number() OVER (PARTITION BY u.kind, u.id ORDER BY u.place) = 1 AS is_first
        FROM unnest(kinds, ids, contents) WITH ORDINALITY AS u (kind, id, content, place)
    ) AS a
    LEFT JOIN entries e ON (e.kind, e.id) = (a.kind, a.id)
    ORDER BY a.place;
END
$$;
