"""The hash of keywords, made to fail."""
from contextlib import contextmanager

from jessy_mem._core.words cimport hash_seeds


@contextmanager
def hashes_alike():
    """Let all keywords have one hash meanwhile; for one thread."""
    first, second = hash_seeds[0], hash_seeds[1]
    hash_seeds[0] = hash_seeds[1] = 0
    try:
        yield
    finally:
        hash_seeds[0], hash_seeds[1] = first, second
