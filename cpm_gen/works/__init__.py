"""Durable texts: they outlive the process that writes them."""
