"""HTTP bodies and responses."""
