"""For all stress tests."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def many_switches():
    """Threads take turns as often as possible; and none waits long for the GIL, whatever the others do."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)
