from typing import Final

NEWER: Final[str]

def advice(path: str, first: bytes | None = None) -> str: ...
