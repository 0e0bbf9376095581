"""Reconciliation: what the engine knows in two places, compared at one consistent cut while trading goes on."""
