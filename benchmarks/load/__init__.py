"""Load on a real service: what to ask for, how to ask for it, what came back."""
