DROP TABLE candles_1m;

DROP TABLE trades;

DROP TABLE orders;
