"""cpm-gen inside other programs' servers."""
