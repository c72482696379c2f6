"""Benchmarks of jessy_mem, for asv: see ../README.md."""
