"""Errors of the database of works."""

from cpm_gen.errors import CpmGenError


class StorageError(CpmGenError):
    """The database failed or does not answer; the message is its own."""
