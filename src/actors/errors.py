"""The one error with which an engine does not start."""


class StartError(Exception):
    """The engine cannot start; the message is one line that says why and what to do."""
