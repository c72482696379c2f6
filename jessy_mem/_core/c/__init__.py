"""Compilers, clocks, the system and CPython's versions: the only files that know how they differ."""
