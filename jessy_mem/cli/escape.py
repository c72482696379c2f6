"""The one way on which text from a file, a path or an error goes before a person sees it.

A terminal obeys some characters instead of showing them: they set its title, hide what follows, turn the order of words
around. Here they become what a person can read.
"""

from __future__ import annotations

import unicodedata

__all__ = ["escaped"]

# Controls (C0, C1, DEL), formats (bidirectional, zero-width), separators of lines and paragraphs, lone surrogates.
OBEYED = frozenset(("Cc", "Cf", "Zl", "Zp", "Cs"))


def escaped(text: str, keep: str = "") -> str:
    r"""`text` with what a terminal would obey shown as Python writes it; the characters in `keep` stay.

    A text that was escaped before is left as it is, so it does no harm to go through here twice.

    >>> print(escaped("a\x1b[2J\u202eb\udcff"), escaped("two\nlines", keep="\n"), sep="|")
    a\x1b[2J\u202eb\udcff|two
    lines
    """
    if text.isprintable():
        return text
    return "".join(_written(character) if _is_obeyed(character, keep) else character for character in text)


def _is_obeyed(character: str, keep: str) -> bool:
    return character not in keep and unicodedata.category(character) in OBEYED


def _written(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
