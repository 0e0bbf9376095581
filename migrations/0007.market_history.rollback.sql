DROP TABLE imported_trades;

DROP TABLE candles_1h;
