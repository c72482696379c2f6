"""``python -m jessy_mem``: the command line."""

from jessy_mem.cli import main

if __name__ == "__main__":
    main(prog_name="python -m jessy_mem")
