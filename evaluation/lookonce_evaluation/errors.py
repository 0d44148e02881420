"""The errors of this package: each is one line for the person at the command line."""


class EvaluationError(Exception):
    """A wrong argument; the message names it, its value and what is accepted."""
