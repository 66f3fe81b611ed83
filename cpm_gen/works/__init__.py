"""Works, kept: the database in which long texts outlive the process that writes them."""
