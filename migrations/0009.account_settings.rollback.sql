DROP INDEX funding_transaction;

DROP TABLE statement_marks;

DROP TABLE account_settings;

DELETE FROM counters WHERE name = 'account_settings';
