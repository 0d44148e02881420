"""The errors of this package: each is one line for the person at the command line."""


class EvaluationError(Exception):
    """What was asked for cannot be done; the message names the argument, its value and what is accepted."""
