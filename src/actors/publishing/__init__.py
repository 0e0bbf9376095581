"""What the publisher folds events into: depth and tickers. Pure: no ring, no table, no clock."""
