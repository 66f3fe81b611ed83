"""The database of works."""
