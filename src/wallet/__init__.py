"""Wallet services outside the engine: ``port`` says what is asked of one, ``open.open_wallet`` connects to one.

The built-in ledger needs none of it: there a request is a row of ``storage.funding``.
"""
