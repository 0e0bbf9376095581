"""Verification: what the journals give, replayed, beside everything that was ever made of them."""
