DROP FUNCTION make_entries(text[], text[], text[], jsonb[]);
DROP FUNCTION make_together(text[], text[], text[], jsonb[]);
DROP TABLE postings;
DROP TABLE balances;
DROP TABLE entries;
