"""A spot trading engine: one process per symbol shard, fed through shared-memory rings."""

__version__ = "0.1.0"
