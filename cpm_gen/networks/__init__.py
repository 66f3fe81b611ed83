"""One network, several backends."""
