DROP TABLE accounts;

DROP TABLE symbols;

DROP TABLE assets;

DROP TABLE counters;
