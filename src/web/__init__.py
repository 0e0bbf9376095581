"""The front: HTTP in, commands out; events in, answers out. The only package that knows HTTP words."""
