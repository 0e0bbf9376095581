DROP SCHEMA operators CASCADE;

-- Of the whole server: it stays while another database has something granted to it.
DO $$ BEGIN
    DROP ROLE IF EXISTS tradeengine_reader;
EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN
    NULL;
END $$;

DROP INDEX funding_refused;

DROP INDEX funding_statement;

DROP INDEX funding_account;

CREATE INDEX funding_account ON funding (account_id, number);

CREATE INDEX funding_transaction ON funding (transaction_id) WHERE transaction_id IS NOT NULL;
