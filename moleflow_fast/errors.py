"""The base of every error that a user can mend."""


class UserError(Exception):
    """Its text names what is wrong (file or option) and the remedy; commands print it without a traceback."""
