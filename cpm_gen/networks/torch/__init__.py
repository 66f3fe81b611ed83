"""The reference backend, in plain torch."""
