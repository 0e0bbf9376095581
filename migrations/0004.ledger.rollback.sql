DROP TABLE funding;

DROP TABLE settlement_cursors;

DROP TABLE balances;

DROP TABLE postings;
