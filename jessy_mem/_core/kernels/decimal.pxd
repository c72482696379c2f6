"""The number that was written, from the 32 bits that are stored of it."""
from libc.math cimport isfinite, rint
from libc.stdio cimport snprintf
from libc.stdlib cimport strtod

cdef enum:
    MIN_DIGITS = 6  # a decimal of so many digits comes back from 32 bits
    MAX_DIGITS = 9  # and so many tell all floats of 32 bits apart
    MAX_PLACES = 12


cdef inline double decimal_of(float stored) noexcept nogil:
    """The shortest decimal whose nearest 32-bit float is `stored`, as a double: 0.6 for what 0.6 was rounded to."""
    cdef double power = 1, decimal
    cdef char[32] text
    cdef int _i, n_digits
    if stored < 0:
        return -decimal_of(-stored)
    if not isfinite(stored):
        return stored
    if 1e-3 <= stored < 1e6:  # nearly all there are; a quotient of two exact numbers is the double nearest to it
        for _i in range(MAX_PLACES + 1):
            decimal = rint(stored * power) / power
            if <float> decimal == stored:
                return decimal
            power *= 10
    for n_digits in range(MIN_DIGITS, MAX_DIGITS + 1):
        snprintf(text, sizeof(text), b"%.*g", n_digits, <double> stored)
        decimal = strtod(text, NULL)
        if <float> decimal == stored:
            break
    return decimal
