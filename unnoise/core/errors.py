"""The one exception that means "what you gave me cannot be right"."""


class InputError(ValueError):
    """Bad input: one line that says what, where, and what would be right. The command line prints it and exits with 2."""
