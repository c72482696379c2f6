"""Access to kernels for tests and benchmarks: in a C loop, and in native threads. The library uses none of it."""
