"""The processes of the engine. Read ``topology`` first: it says which actors and rings exist."""
