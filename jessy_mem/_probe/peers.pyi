import numpy as np
import numpy.typing as npt

def allocator_pairs_ns(
    malloc_address: int, free_address: int, n_bytes: int, n_pairs: int, n_threads: int = 1
) -> float: ...
def record_cost_ns(
    record_address: int, histogram_address: int, values: npt.NDArray[np.uint64], n_rounds: int
) -> float: ...
