"""What other Cython packages may cimport; see docs/cython.md."""
from jessy_mem._core.arena cimport PoolBlock
from jessy_mem._core.c.typedefs cimport DOUBLE_FREE, LIMIT_EXCEEDED, NO_FREE_BLOCK, OK, Status
from jessy_mem._core.pool cimport Block, PoolAllocator
from jessy_mem._core.view cimport LayerView
