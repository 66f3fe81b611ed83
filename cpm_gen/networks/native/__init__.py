"""The C++ CPU kernels as a backend."""
