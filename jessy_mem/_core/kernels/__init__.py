"""Kernels: inline, ``noexcept nogil``, no Python object."""
