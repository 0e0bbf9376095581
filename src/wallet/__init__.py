"""Money in and out: the wallet port and the built-in ledger behind it."""
