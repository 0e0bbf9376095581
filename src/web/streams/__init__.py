"""Streams: WebSocket clients of a front, their subscriptions, and what they are told. One comes in at ``endpoint``."""
