"""Several threads beside one: what ``jessy-mem bench --threads`` prints."""

import tempfile
from functools import cache
from pathlib import Path

from jessy_mem.cli.scaling import OPERATIONS, measure_threads, usual_counts

from . import common


@cache
def measured():
    """Calls a second over those of one thread, by operation and threads: all of it is one run, in turns."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure_threads(Path(folder), usual_counts(), common.SMALL)
    return {(each.operation, n_threads): ratio for each in found for n_threads, ratio in each.over_one.items()}


class Scaling:
    """Bars without the GIL: 2 threads 1.9 x, 16 on 16 cores 12 x with a Reader each; shared layers 1.0 x at least."""

    params = (tuple(OPERATIONS), tuple(usual_counts()[1:]))
    param_names = ("operation", "threads")
    unit = "x"

    def setup_cache(self):
        return measured()

    def track_over_one(self, found, operation, n_threads):
        return found[operation, n_threads]
