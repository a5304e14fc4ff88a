"""The exception that stops a campaign."""


class Violation(Exception):
    """A promise is broken; the message says which, and what was found."""
