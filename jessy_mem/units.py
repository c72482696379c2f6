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
    """A size for people, in binary units.

    >>> format_bytes(512), format_bytes(155189248)
    ('512 B', '148.0 MiB')
    """
    size = float(n_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{n_bytes} B" if unit == "B" else f"{size:.1f} {unit}"


def format_ns(t_ns: float) -> str:
    """A time for people.

    >>> format_ns(45), format_ns(12_300), format_ns(4_500_000)
    ('45 ns', '12.3 us', '4.5 ms')
    """
    if t_ns < 1000:
        return f"{t_ns:.0f} ns"
    if t_ns < 1_000_000:
        return f"{t_ns / 1000:.1f} us"
    return f"{t_ns / 1_000_000:.1f} ms"
