"""What can be set, its defaults and bounds, and where each value came from."""
