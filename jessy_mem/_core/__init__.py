"""The compiled core. Private: import names from ``jessy_mem``."""
