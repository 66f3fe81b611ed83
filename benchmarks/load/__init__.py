"""Load on a running service: requests, clients, results."""
