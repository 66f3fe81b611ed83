"""Weights on disk, in any format: opened, described, resharded."""
