"""The command line: what people and scripts start the engine with and ask it."""
