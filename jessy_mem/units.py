"""Sizes, times and numbers of things as people read them."""

from __future__ import annotations

__all__ = ["counted", "format_bytes", "format_ns"]


def counted(n: int, what: str) -> str:
    """A number of things of which there may be one.

    >>> counted(1, "layer"), counted(2_000, "layer")
    ('1 layer', '2,000 layers')
    """
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def format_bytes(n_bytes: int) -> str:
    """A size for people, in binary units; without a fraction where there is none.

    >>> format_bytes(512), format_bytes(16 << 20), format_bytes(12_345)
    ('512 B', '16 MiB', '12.1 KiB')
    """
    size = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if size.is_integer() else f"{size:.1f} {unit}"


def format_ns(t_ns: float) -> str:
    """A time for people.

    >>> format_ns(2.24), format_ns(74.9), format_ns(28_603), format_ns(100e6)
    ('2.2 ns', '75 ns', '28.6 us', '100 ms')
    """
    value = float(t_ns)
    for unit in ("ns", "us", "ms", "s"):
        if round(value, 1) < 1000 or unit == "s":
            break
        value /= 1000
    digits = 0 if value >= (10 if unit == "ns" else 100) or value.is_integer() else 1
    return f"{value:.{digits}f} {unit}"
