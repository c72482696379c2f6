"""``python -m jessy_mem``: the command line."""

from jessy_mem.cli import run

run("python -m jessy_mem")
