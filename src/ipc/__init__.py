"""Shared memory between the actors: segments, rings, atomics, doorbells, metric pages, seqlocked tables."""
