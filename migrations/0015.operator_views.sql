-- What operators look at in psql: a schema of views over tables and statistics, and who may read it. docs/database.md
-- shows them. And indexes of deposits and withdrawals that serve what is asked.
-- depends: 0013.wallet_order

-- Lists of an account's requests and its statement go by these two, each along its index; by number neither did.
DROP INDEX funding_account;

DROP INDEX funding_transaction;

CREATE INDEX funding_account ON funding (account_id, id);

CREATE INDEX funding_statement ON funding (account_id, transaction_id) WHERE transaction_id IS NOT NULL;

-- Few are, and nothing else finds them.
CREATE INDEX funding_refused ON funding (id) WHERE status = 'refused';

CREATE SCHEMA operators;

COMMENT ON SCHEMA operators IS 'Views for people; no program depends on them. docs/database.md shows them.';

-- The newest stored book of each symbol, level by level, in decimals.
CREATE VIEW operators.depth AS
SELECT s.name AS symbol, side.name AS side, level, side.levels[level][1] * s.tick::numeric AS price,
    side.levels[level][2] * s.lot::numeric AS quantity, book.taken_at, book.sequence
FROM symbols AS s
CROSS JOIN LATERAL (
    SELECT * FROM depth_snapshots AS d WHERE d.symbol_id = s.id ORDER BY taken_at DESC LIMIT 1
) AS book
CROSS JOIN LATERAL (VALUES ('bid', book.bids), ('ask', book.asks)) AS side (name, levels)
CROSS JOIN LATERAL generate_series(1, coalesce(array_length(side.levels, 1), 0)) AS level;

-- Trades of the last 24 hours by symbol, to the minute.
CREATE VIEW operators.volume AS
SELECT s.name AS symbol, s.trading_state, coalesce(day.trades, 0) AS trades,
    coalesce(day.lots, 0) * s.lot::numeric AS base_volume, base.name AS base,
    coalesce(day.units, 0) / 10::numeric ^ quote.places AS quote_volume, quote.name AS quote,
    day.low * s.tick::numeric AS low, day.high * s.tick::numeric AS high, last.price_ticks * s.tick::numeric AS last_price,
    last.executed_at AS last_trade_at
FROM symbols AS s
JOIN assets AS base ON base.id = s.base_asset_id
JOIN assets AS quote ON quote.id = s.quote_asset_id
CROSS JOIN LATERAL (
    SELECT sum(trade_count) AS trades, sum(volume_lots) AS lots, sum(notional_units) AS units, min(low_ticks) AS low,
        max(high_ticks) AS high
    FROM candles_1m AS c WHERE c.symbol_id = s.id AND c.minute > now() - interval '24 hours'
) AS day
LEFT JOIN LATERAL (
    SELECT t.price_ticks, t.executed_at FROM trades AS t WHERE t.symbol_id = s.id ORDER BY t.id DESC LIMIT 1
) AS last ON true;

-- How far PostgreSQL has followed each shard, -1: risk's own events; and when the last trade of it was. How many events
-- are still to come only the engine knows: tradeengine_settlement_backlog_events.
CREATE VIEW operators.settlement AS
SELECT c.shard, c.sequence AS next_sequence, last.executed_at AS last_trade_at,
    round(extract(epoch FROM now() - last.executed_at), 1) AS seconds_since
FROM settlement_cursors AS c
LEFT JOIN LATERAL (
    SELECT max(newest.executed_at) AS executed_at
    FROM symbols AS s
    CROSS JOIN LATERAL (
        SELECT t.executed_at FROM trades AS t WHERE t.symbol_id = s.id ORDER BY t.id DESC LIMIT 1
    ) AS newest
    WHERE s.shard = c.shard
) AS last ON true;

-- What is asked for and not done: a number that grows, or an age that does, is a part of the engine that stands still.
CREATE VIEW operators.waiting AS
SELECT 'deposits and withdrawals' AS what, count(*), round(extract(epoch FROM now() - min(requested_at)), 1) AS oldest_s
FROM funding WHERE status = 'pending'
UNION ALL
SELECT 'transfers to the wallet', count(*), round(extract(epoch FROM now() - min(created_at)), 1)
FROM wallet_transfers WHERE state = 'pending'
UNION ALL
SELECT 'dead letters', count(*), round(extract(epoch FROM now() - min(created_at)), 1)
FROM wallet_transfers WHERE state = 'dead'
UNION ALL
SELECT 'reconciliations', count(*), round(extract(epoch FROM now() - min(requested_at)), 1)
FROM reconciliations WHERE finished_at IS NULL;

-- Tables with their indexes, partitions added up.
CREATE VIEW operators.table_sizes AS
SELECT root.relname AS table_name, count(*) AS parts, sum(greatest(c.reltuples, 0))::bigint AS rows_estimate,
    sum(pg_table_size(c.oid))::bigint AS table_bytes, sum(pg_indexes_size(c.oid))::bigint AS index_bytes,
    pg_size_pretty(sum(pg_total_relation_size(c.oid))) AS total, sum(s.n_dead_tup)::bigint AS dead_rows,
    max(greatest(s.last_vacuum, s.last_autovacuum)) AS last_vacuum,
    max(greatest(s.last_analyze, s.last_autoanalyze)) AS last_analyze
FROM pg_class AS c
JOIN pg_class AS root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
LEFT JOIN pg_stat_all_tables AS s ON s.relid = c.oid
WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
GROUP BY root.relname
ORDER BY sum(pg_total_relation_size(c.oid)) DESC;

-- How often each index was looked into since the statistics began, partitions added up; a constraint's index is needed
-- even where nobody looks.
CREATE VIEW operators.index_use AS
SELECT table_root.relname AS table_name, root.relname AS index_name, count(*) AS parts, sum(s.idx_scan)::bigint AS scans,
    sum(s.idx_tup_read)::bigint AS entries_read, sum(pg_relation_size(s.indexrelid))::bigint AS bytes,
    pg_size_pretty(sum(pg_relation_size(s.indexrelid))) AS size, bool_or(i.indisunique) AS is_unique
FROM pg_stat_user_indexes AS s
JOIN pg_index AS i USING (indexrelid)
JOIN pg_class AS root ON root.oid = coalesce(pg_partition_root(s.indexrelid), s.indexrelid)
JOIN pg_class AS table_root ON table_root.oid = coalesce(pg_partition_root(s.relid), s.relid)
WHERE s.schemaname = 'public'
GROUP BY table_root.relname, root.relname
ORDER BY sum(s.idx_scan), sum(pg_relation_size(s.indexrelid)) DESC;

-- What a table takes and what its rows would take if they were packed as when they were written: an estimate from the
-- statistics of ANALYZE. With the rights of its owner, because those statistics are values of the table.
CREATE FUNCTION operators.estimate_bloat()
RETURNS TABLE (table_name name, part name, bytes bigint, packed_bytes bigint) LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
    SELECT root.relname, c.relname, pg_relation_size(c.oid),
        CASE WHEN c.reltuples > 0 AND width.bytes IS NOT NULL THEN
            ceil(c.reltuples * (28 + ceil(width.bytes / 8.0) * 8) / 8168 * 100 / coalesce(
                (SELECT option_value::integer FROM pg_options_to_table(c.reloptions) WHERE option_name = 'fillfactor'), 100)
            )::bigint * 8192
        END
    FROM pg_class AS c
    JOIN pg_class AS root ON root.oid = coalesce(pg_partition_root(c.oid), c.oid)
    CROSS JOIN LATERAL (
        SELECT sum(s.avg_width * (1 - s.null_frac)) AS bytes FROM pg_stats AS s
        WHERE s.schemaname = 'public' AND s.tablename = c.relname
    ) AS width
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace
$$;

CREATE VIEW operators.bloat AS
SELECT table_name, count(*) AS parts, sum(bytes)::bigint AS bytes, sum(packed_bytes)::bigint AS packed_bytes,
    round(100 * (1 - sum(packed_bytes) / nullif(sum(bytes) FILTER (WHERE packed_bytes IS NOT NULL), 0)), 1)
        AS bloat_percent
FROM operators.estimate_bloat()
GROUP BY table_name
ORDER BY sum(bytes) DESC;

-- Who is connected, by what they call themselves.
CREATE VIEW operators.connections AS
SELECT coalesce(nullif(application_name, ''), '?') AS application, count(*),
    count(*) FILTER (WHERE state = 'active') AS active, count(*) FILTER (WHERE state LIKE 'idle in%') AS in_transaction,
    round(extract(epoch FROM now() - min(xact_start)), 1) AS oldest_transaction_s,
    round(extract(epoch FROM now() - min(backend_start))) AS oldest_connection_s
FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = current_database()
GROUP BY 1
ORDER BY 2 DESC, 1;

-- Who waits, for what, and for whom. Of others' queries only who may read all statistics sees more than that.
CREATE VIEW operators.waits AS
SELECT pid, coalesce(nullif(application_name, ''), '?') AS application, wait_event_type, wait_event,
    pg_blocking_pids(pid) AS blocked_by, round(extract(epoch FROM now() - xact_start), 1) AS transaction_s,
    round(extract(epoch FROM now() - query_start), 1) AS statement_s, left(query, 100) AS query
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
    AND (state LIKE 'idle in%' OR state = 'active' AND wait_event_type IS NOT NULL)
ORDER BY xact_start;

-- Locks that somebody has or wants, those of the system's own tables left out.
CREATE VIEW operators.locks AS
SELECT a.pid, coalesce(nullif(a.application_name, ''), '?') AS application, l.locktype, l.relation::regclass AS relation,
    CASE WHEN l.locktype = 'advisory' AND l.objsubid = 1 THEN
        CASE (l.classid::bigint << 32 | l.objid::bigint) - 8381868940309037056
            WHEN 0 THEN 'engine' WHEN 1 THEN 'migration' WHEN 2 THEN 'partition' WHEN 3 THEN 'delivery' ELSE 'other' END
    END AS advisory, l.mode, l.granted, round(extract(epoch FROM now() - l.waitstart), 1) AS waiting_s
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
    AND (l.relation IS NULL OR l.relation >= 16384) AND l.locktype <> 'virtualxid'
ORDER BY l.granted, l.waitstart, a.pid;

-- Statements by the time that they took together. No rows where the extension pg_stat_statements is not there or was not
-- loaded at the server's start.
CREATE FUNCTION operators.read_statements()
RETURNS TABLE (calls bigint, total_ms numeric, mean_ms numeric, max_ms numeric, "rows" bigint, hit_percent numeric,
    query text) LANGUAGE plpgsql STABLE AS $$
DECLARE
    place text;
BEGIN
    SELECT format('%I.pg_stat_statements', n.nspname) INTO place
    FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements';
    IF place IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY EXECUTE format(
        'SELECT calls, round(total_exec_time::numeric, 1), round(mean_exec_time::numeric, 3),
            round(max_exec_time::numeric, 1), rows,
            round(100.0 * shared_blks_hit / nullif(shared_blks_hit + shared_blks_read, 0), 1), query
        FROM %s WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
        ORDER BY total_exec_time DESC', place);
EXCEPTION
    WHEN object_not_in_prerequisite_state THEN
        RAISE NOTICE 'pg_stat_statements is not among shared_preload_libraries';
    WHEN insufficient_privilege THEN
        RAISE NOTICE '%: who looks needs USAGE of the schema of pg_stat_statements', SQLERRM;
END
$$;

CREATE VIEW operators.slow_statements AS SELECT * FROM operators.read_statements();

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA operators FROM PUBLIC;

-- The role for people and programs that look. Roles are the server's and not the database's: it may be there already, and
-- who migrates may not be allowed to make one. Then nothing is granted; docs/database.md has the lines for who is.
DO $$ BEGIN
    IF to_regrole('tradeengine_reader') IS NULL THEN
        CREATE ROLE tradeengine_reader NOLOGIN;
    END IF;
EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
    NULL;
END $$;

DO $$ BEGIN
    GRANT pg_read_all_stats TO tradeengine_reader;
EXCEPTION WHEN insufficient_privilege OR undefined_object OR unique_violation OR internal_error THEN
    NULL;
END $$;

DO $$ BEGIN
    IF to_regrole('tradeengine_reader') IS NOT NULL THEN
        GRANT USAGE ON SCHEMA operators TO tradeengine_reader;
        GRANT SELECT ON ALL TABLES IN SCHEMA operators TO tradeengine_reader;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA operators TO tradeengine_reader;
    END IF;
END $$;
