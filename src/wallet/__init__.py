"""Wallet services outside the engine. The built-in ledger needs none: a request is a row of ``storage.funding``."""
