"""CUDA graphs of our own kernels as a backend; experimental until a GPU has run it."""
