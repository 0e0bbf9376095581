"""The reference wallet service: a program beside the engine, which knows it only over HTTP. ``serve`` starts it."""
