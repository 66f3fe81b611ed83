"""A loaded model that is ready to write."""
