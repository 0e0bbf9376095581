"""The heart, without I/O: records, money, the order book, the risk kernel. Knows no clock, file, ring or user."""
