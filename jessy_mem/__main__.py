"""``python -m jessy_mem``: the command line."""

from jessy_mem.cli import main

main(prog_name="python -m jessy_mem")
