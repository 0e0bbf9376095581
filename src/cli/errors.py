"""The one error of the command line."""


class CommandError(Exception):
    """A command that failed; the message is the one line that the user sees."""
