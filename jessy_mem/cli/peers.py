"""What ``bench --peers`` measures: the same questions about the same content, to this library and to others.

Each answers by the call that its own documentation gives for it, from memory that is warm; whoever has no call for a
question is not asked. All that answer one take turns, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import ctypes
import itertools
import sqlite3
import statistics
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import jessy_mem as jm
from jessy_mem._probe.latency import record_cost_ns
from jessy_mem._probe.peers import allocator_pairs_ns
from jessy_mem._probe.peers import record_cost_ns as record_cost_of_another_ns
from jessy_mem._probe.pool import pool_pairs_ns
from jessy_mem.cli.measure import loops_for, quiet
from jessy_mem.cli.questions import (
    ALLOCATE,
    ALLOCATE_C,
    BLOCK_BYTES,
    LATENCIES_NS,
    LATENCY_NS,
    MOST_NS,
    QUESTIONS,
    RECORD,
    RECORD_C,
    STORE,
    STORE_DURABLE,
    STORED,
    TOGETHER,
    Missing,
    Scale,
    Setting,
    Way,
    address_of,
    library,
    module,
)

__all__ = ["OURS", "PEERS", "Answer", "ask", "loops"]

OURS = "jessy_mem"
N_LEAST = 3  # rounds

# Those who answer -----------------------------------------------------------------------------------------------------


def _ours(its: Setting) -> dict[str, Way]:
    base, here = Path(its.folder(OURS)), its.scale
    bounds = {20: range(here.n_small), 21: range(here.n_small, here.many.start), 22: here.many}
    ids = []
    for dimension, numbers in bounds.items():
        builder = jm.RegionBuilder(dimension, f"bench {dimension}")
        ids += [jm.LayerId(dimension, layer) for layer in range(len(numbers))]
        for number in numbers:
            builder.add_layer(jm.LayerSpec(content=its.contents[number]))
        builder.write(jm.region_path(base, dimension))
    memory = its.end.enter_context(jm.MmapManager(base_path=base, simulation="never"))
    for dimension in bounds:
        memory.load_dimension(dimension)
    many = ids[here.many.start :]
    histogram, pool = jm.LatencyHistogram(MOST_NS), jm.PoolAllocator()
    ways = its.reads(
        ("access_layer", "access(k)"),
        ("bytes(access_layer)", "bytes(access(k))"),
        ids.__getitem__,
        access=memory.access_layer,
    )
    ways[TOGETHER] = its.timed("read_many", "read_many(ids)", read_many=memory.read_many, ids=many)
    settings: dict[str, Literal["each", "batch"]] = {STORE: "batch", STORE_DURABLE: "each"}
    for question, durability in settings.items():
        learning = its.end.enter_context(
            jm.MmapManager(base_path=its.folder(f"{OURS} {durability}"), simulation="never", durability=durability)
        )
        dimension = learning.create_proto_dimension("bench", [jm.LayerSpec(content=STORED)])
        learning.crystallize(dimension)
        ways[question] = its.timed(
            f'append_layer, "{durability}"', "append(d, Spec(content=data))",
            append=learning.append_layer, d=dimension, Spec=jm.LayerSpec, data=STORED,
        )  # fmt: skip
    ways[ALLOCATE] = its.timed("allocate, free", "allocate(n).free()", allocate=memory.allocate, n=BLOCK_BYTES)
    ways[ALLOCATE_C] = Way("claim_block, release_block", lambda n: pool_pairs_ns(pool, BLOCK_BYTES, n))
    ways[RECORD] = its.timed("record", "record(t)", record=histogram.record, t=LATENCY_NS)
    ways[RECORD_C] = Way("record_ns", lambda n: record_cost_ns(histogram, LATENCIES_NS, -(-n // len(LATENCIES_NS))))
    return ways


def _lmdb(its: Setting) -> dict[str, Way]:
    lmdb = module("lmdb")

    def opened(name: str, **options: Any) -> Any:
        return its.end.enter_context(closing(lmdb.open(its.folder(name), map_size=256 << 20, **options)))

    def store(environment: Any) -> Callable[[], None]:
        numbers = itertools.count()

        def put() -> None:
            with environment.begin(write=True) as transaction:
                transaction.put(b"%08d" % next(numbers), STORED)

        return put

    env = opened("lmdb", sync=False)
    keys = [b"%08d" % number for number in range(len(its.contents))]
    with env.begin(write=True) as writing:
        for key, content in zip(keys, its.contents, strict=True):
            writing.put(key, content)
    buffers, copies = (its.end.enter_context(env.begin(buffers=each)) for each in (True, False))
    many = [keys[number] for number in its.scale.many]
    cursor = its.end.enter_context(closing(copies.cursor()))
    return {
        **its.reads(
            ("get, buffers=True", "view(k)"), ("get", "copy(k)"), keys.__getitem__, view=buffers.get, copy=copies.get
        ),
        TOGETHER: its.timed("getmulti", "getmulti(many)", getmulti=cursor.getmulti, many=many),
        STORE: its.timed("put, sync=False", "store()", store=store(opened("lmdb unsynced", sync=False))),
        STORE_DURABLE: its.timed("put", "store()", store=store(opened("lmdb synced"))),
    }


def _memmap(its: Setting) -> dict[str, Way]:
    data, where = its.packed()
    path = Path(its.folder("memmap"), "content")
    path.write_bytes(data)
    mapped = np.memmap(path, np.uint8, mode="r")
    numbers = its.scale.many
    rows = mapped[where[numbers.start].start :].reshape(len(numbers), -1)
    stored = np.memmap(path.with_name("stored"), np.uint8, mode="w+", shape=(4096, len(STORED)))
    names = {"stored": stored, "data": np.frombuffer(STORED, np.uint8), "next": itertools.cycle(range(4096)).__next__}
    return {
        **its.reads(("memmap[a:b]", "m[k]"), ("memmap[a:b].tobytes", "m[k].tobytes()"), where.__getitem__, m=mapped),
        TOGETHER: its.timed("rows[indices]", "rows[many]", rows=rows, many=np.arange(len(numbers))),
        STORE: its.timed("rows[i] = data", "stored[next()] = data", **names),
        STORE_DURABLE: its.timed("rows[i] = data; flush", "stored[next()] = data; stored.flush()", **names),
    }


def _pyarrow(its: Setting) -> dict[str, Way]:
    pa = module("pyarrow")
    path = str(Path(its.folder("pyarrow"), "content.arrow"))
    batch = pa.record_batch({"content": pa.array(its.contents, pa.large_binary())})
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    source = its.end.enter_context(closing(pa.memory_map(path)))
    content = pa.ipc.open_file(source).get_batch(0).column(0)
    _, offsets, data = content.buffers()
    begins = np.frombuffer(offsets, np.int64).tolist()
    names = {"data": data.slice, "key": lambda number: (begins[number], len(its.contents[number]))}
    return {
        **its.reads(("buffer.slice", "data(*k)"), ("buffer.slice.to_pybytes", "data(*k).to_pybytes()"), **names),
        TOGETHER: its.timed("array.take", "take(many)", take=content.take, many=pa.array(its.scale.many)),
        ALLOCATE: its.timed("allocate_buffer", "allocate(n)", allocate=pa.allocate_buffer, n=BLOCK_BYTES),
    }


def _safetensors(its: Setting) -> dict[str, Way]:
    files, safetensors = module("safetensors.numpy"), module("safetensors")
    folder, many = Path(its.folder("safetensors")), its.scale.many
    tensors = {str(i): np.frombuffer(content, np.uint8) for i, content in enumerate(its.contents)}
    files.save_file(tensors, folder / "all")
    files.save_file({str(i): tensors[str(i)] for i in many}, folder / "many")
    opened = its.end.enter_context(safetensors.safe_open(folder / "all", framework="numpy"))
    return {
        **its.reads(("get_tensor", "get(k)"), ("get_tensor.tobytes", "get(k).tobytes()"), str, get=opened.get_tensor),
        TOGETHER: its.timed("load_file", "load_file(path)", load_file=files.load_file, path=folder / "many"),
    }


def _sqlite3(its: Setting) -> dict[str, Way]:
    path = Path(its.folder("sqlite3"))

    def opened(name: str, synchronous: str) -> sqlite3.Connection:
        made = its.end.enter_context(closing(sqlite3.connect(path / name, isolation_level=None)))
        made.execute("PRAGMA journal_mode = WAL")
        made.execute(f"PRAGMA synchronous = {synchronous}")
        made.execute("CREATE TABLE layers (id INTEGER PRIMARY KEY, content BLOB)")
        return made

    reading = opened("content", "OFF")
    reading.execute("BEGIN")
    reading.executemany("INSERT INTO layers VALUES (?, ?)", enumerate(its.contents))
    reading.execute("COMMIT")
    one = 'execute("SELECT content FROM layers WHERE id = ?", (k,)).fetchone()[0]'
    several = 'execute("SELECT content FROM layers WHERE id BETWEEN ? AND ?", many).fetchall()'
    insert = 'execute("INSERT INTO layers (content) VALUES (?)", (data,))'
    bounds = its.scale.many.start, its.scale.many.stop - 1
    return {
        **its.reads(("SELECT, which copies", one), ("SELECT", one), execute=reading.execute),
        TOGETHER: its.timed("SELECT ... BETWEEN", several, execute=reading.execute, many=bounds),
        STORE: its.timed("INSERT, synchronous=OFF", insert, execute=opened("off", "OFF").execute, data=STORED),
        STORE_DURABLE: its.timed("INSERT, WAL, FULL", insert, execute=opened("full", "FULL").execute, data=STORED),
    }


def _diskcache(its: Setting) -> dict[str, Way]:
    diskcache = module("diskcache")

    def opened(name: str, **settings: Any) -> Any:
        return its.end.enter_context(closing(diskcache.Cache(its.folder(name), **settings)))

    cache = opened("diskcache")
    with cache.transact():
        for number, content in enumerate(its.contents):
            cache[number] = content
    store = "cache[next()] = data"
    names = {"next": itertools.count().__next__, "data": STORED}
    return {
        **its.reads(("cache[k], which copies", "cache[k]"), ("cache[k]", "cache[k]"), cache=cache),
        STORE: its.timed("cache[k] = data", store, cache=opened("diskcache as it is"), **names),
        STORE_DURABLE: its.timed(
            "the same, synchronous=2", store, cache=opened("diskcache full", sqlite_synchronous=2), **names
        ),
    }


def _shared_memory(its: Setting) -> dict[str, Way]:
    data, where = its.packed()
    shared = module("multiprocessing.shared_memory").SharedMemory(create=True, size=len(data))
    its.end.callback(shared.unlink)
    its.end.callback(shared.close)
    shared.buf[: len(data)] = data
    return its.reads(("buf[a:b]", "buf[k]"), ("bytes(buf[a:b])", "bytes(buf[k])"), where.__getitem__, buf=shared.buf)


def _numpy(its: Setting) -> dict[str, Way]:
    return {ALLOCATE: its.timed("empty", "empty(n, dtype)", empty=np.empty, n=BLOCK_BYTES, dtype=np.uint8)}


def _bytearray(its: Setting) -> dict[str, Way]:
    return {ALLOCATE: its.timed("bytearray", "bytearray(n)", n=BLOCK_BYTES)}


def _allocator(how: str, malloc: Any, free: Any) -> dict[str, Way]:
    addresses = address_of(malloc), address_of(free)
    return {ALLOCATE_C: Way(how, lambda n: allocator_pairs_ns(*addresses, BLOCK_BYTES, n))}


def _malloc(its: Setting) -> dict[str, Way]:
    system = ctypes.CDLL(None)
    return _allocator("malloc, free", system.malloc, system.free)


def _mimalloc(its: Setting) -> dict[str, Way]:
    mimalloc = library("mimalloc")
    return _allocator("mi_malloc, mi_free", mimalloc.mi_malloc, mimalloc.mi_free)


def _hdr_histogram(its: Setting) -> dict[str, Way]:
    hdr = library("hdr_histogram")
    hdr.hdr_init.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p]
    hdr.hdr_close.argtypes = [ctypes.c_void_p]
    made = ctypes.c_void_p()
    if hdr.hdr_init(1, MOST_NS, 2, ctypes.byref(made)):
        raise MemoryError
    its.end.callback(hdr.hdr_close, made)
    record, histogram = address_of(hdr.hdr_record_value), made.value or 0
    return {
        RECORD_C: Way(
            "hdr_record_value",
            lambda n: record_cost_of_another_ns(record, histogram, LATENCIES_NS, -(-n // len(LATENCIES_NS))),
        )
    }


def _hdrhistogram(its: Setting) -> dict[str, Way]:
    histogram = module("hdrh.histogram").HdrHistogram(1, MOST_NS, 2)
    return {RECORD: its.timed("record_value", "record(t)", record=histogram.record_value, t=LATENCY_NS)}


def _prometheus(its: Setting) -> dict[str, Way]:
    histogram = module("prometheus_client").Histogram("latency", "of accesses", registry=None)
    return {RECORD: its.timed("Histogram.observe", "observe(t)", observe=histogram.observe, t=LATENCY_NS / 1e9)}


PEERS: dict[str, Callable[[Setting], dict[str, Way]]] = {
    OURS: _ours,
    "lmdb": _lmdb,
    "numpy.memmap": _memmap,
    "pyarrow": _pyarrow,
    "safetensors": _safetensors,
    "sqlite3": _sqlite3,
    "diskcache": _diskcache,
    "shared_memory": _shared_memory,
    "numpy": _numpy,
    "bytearray": _bytearray,
    "malloc": _malloc,
    "mimalloc": _mimalloc,
    "HdrHistogram_c": _hdr_histogram,
    "hdrhistogram": _hdrhistogram,
    "prometheus_client": _prometheus,
}


# Asking them ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """How long a library took for a question: the least and the median of all turns, in ns for one call.

    `ratio` is our least time over its, so that below 1 we are faster; None for ours.
    """

    question: str
    peer: str
    how: str
    least_ns: float
    median_ns: float
    ratio: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def loops(question: str, way: Way, here: Scale) -> int:
    """How many calls a turn has."""
    return here.n_stored if question in (STORE, STORE_DURABLE) else loops_for(way.run, here.turn_ns)


def ask(
    base: Path, here: Scale, peers: Iterable[str] = PEERS, questions: Iterable[str] = QUESTIONS
) -> tuple[list[Answer], list[str]]:
    """What those of `peers` that are here answered, with ours first for each question; and the names of the others.

    `base` is an empty folder, which holds the content of all of them afterwards.
    """
    missing: list[str] = []
    ways: dict[str, dict[str, Way]] = {}
    found = []
    with ExitStack() as end:
        setting = Setting(base, here, here.contents(), end)
        for peer in dict.fromkeys([OURS, *peers]):
            try:
                ways[peer] = PEERS[peer](setting)
            except Missing:
                missing.append(peer)
        asked = [(question, peer) for question in questions for peer in ways if question in ways[peer]]
        with quiet():
            n_loops = {each: loops(each[0], ways[each[1]][each[0]], here) for each in asked}
            runs: dict[tuple[str, str], list[float]] = {each: [] for each in asked}
            spent_ns = dict.fromkeys(QUESTIONS, 0.0)
            for n_rounds in range(here.n_rounds):
                for question, peer in asked:
                    if n_rounds < N_LEAST or spent_ns[question] < here.question_ns:
                        t_ns = ways[peer][question].run(n_loops[question, peer])
                        runs[question, peer].append(t_ns)
                        spent_ns[question] += t_ns * n_loops[question, peer]
        for question, peer in asked:
            least = min(runs[question, peer])
            ratio = None if peer == OURS else min(runs[question, OURS]) / least
            how = ways[peer][question].how
            found.append(Answer(question, peer, how, least, statistics.median(runs[question, peer]), ratio))
    return found, missing
