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
    amount numeric(38, 18) NOT NULL,
    CONSTRAINT not_negative CHECK (amount >= 0 OR part IN ('outside', 'clearing')),
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

-- Makes entries in their order, each wholly or not at all, in one transaction; returns for each what became of it, with
-- the number and time of the entry that is there: 'made', 'repeated' (it was there before), 'reused' (another content
-- was there before), 'insufficient' (nothing was done: a part of someone's money would be negative).
-- lines: [{"user_name", "asset", "part", "amount"}, …] of each entry.
CREATE FUNCTION make_entries(kinds text[], ids text[], contents text[], lines jsonb[])
RETURNS TABLE (outcome text, number bigint, made_at timestamptz)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    known entries;
    account_count integer;
    updated_count integer;
BEGIN
    -- One at a time, so that two services on one database cannot lock each other out.
    PERFORM pg_advisory_xact_lock(8389754676633104385);
    FOR i IN 1 .. coalesce(array_length(kinds, 1), 0) LOOP
        SELECT * INTO known FROM entries WHERE entries.kind = kinds[i] AND entries.id = ids[i];
        IF FOUND THEN
            outcome := CASE WHEN known.content = contents[i] THEN 'repeated' ELSE 'reused' END;
            number := known.number;
            made_at := known.made_at;
            RETURN NEXT;
            CONTINUE;
        END IF;
        BEGIN
            INSERT INTO entries (kind, id, content) VALUES (kinds[i], ids[i], contents[i])
            RETURNING entries.number, entries.made_at INTO number, made_at;
            INSERT INTO postings (entry_number, line, user_name, asset, part, amount)
            SELECT make_entries.number, row_number() OVER (), l.user_name, l.asset, l.part, l.amount
            FROM jsonb_to_recordset(lines[i]) AS l (user_name text, asset text, part text, amount numeric);
            WITH changes AS MATERIALIZED (
                SELECT p.user_name, p.asset, p.part, sum(p.amount) AS amount
                FROM postings p WHERE p.entry_number = make_entries.number GROUP BY 1, 2, 3
            ), updated AS (
                UPDATE balances b SET amount = b.amount + c.amount FROM changes c
                WHERE (b.user_name, b.asset, b.part) = (c.user_name, c.asset, c.part)
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM changes), (SELECT count(*) FROM updated) INTO account_count, updated_count;
            IF updated_count < account_count THEN
                INSERT INTO balances (user_name, asset, part, amount)
                SELECT p.user_name, p.asset, p.part, sum(p.amount)
                FROM postings p WHERE p.entry_number = make_entries.number
                AND NOT EXISTS (
                    SELECT FROM balances b WHERE (b.user_name, b.asset, b.part) = (p.user_name, p.asset, p.part)
                )
                GROUP BY 1, 2, 3;
            END IF;
            IF EXISTS (
                SELECT FROM postings p WHERE p.entry_number = make_entries.number GROUP BY p.asset HAVING sum(p.amount) <> 0
            ) THEN
                RAISE EXCEPTION 'the postings of % % do not sum to zero', kinds[i], ids[i];
            END IF;
            outcome := 'made';
        EXCEPTION WHEN check_violation THEN
            outcome := 'insufficient';
            number := NULL;
            made_at := NULL;
        END;
        RETURN NEXT;
    END LOOP;
END
$$;
