"""The database of works. The only package that knows SQL."""
