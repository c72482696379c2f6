"""MemoryStats against an oracle in plain Python: every field equal after each of 10,000 random operations."""

import dataclasses
import itertools
import json
import random
import re
import warnings
from collections import defaultdict
from functools import partial

import pytest
from oracle import CLOCKS, MIB, File, Oracle, Piece
from world import World, check_states

import jessy_mem as jm
from helpers import Layer, extended_file, read_region
from jessy_mem import compression

SIMULATED = (6, 7, 14)  # have no file, at first or ever
OTHERS = (15, 16, 17, 1000, 1001, 1002)  # files outside the plan, written by others
COMPRESSED = (4, 16)
UNKNOWN = 77
LEARNED_MAX = 8


@dataclasses.dataclass(frozen=True)
class Scenario:
    name: str
    total_mb: float
    on_full: str = "crystallize"
    policy: str = "sieve"
    timed: bool = True
    trace: bool = False
    large: bool = False  # files of many MiB, so that the segments bind


SCENARIOS = (
    Scenario("crystallize", 0.5),
    Scenario("raise", 0.5, "raise", "lru", trace=True),
    Scenario("drop", 0.4, "drop", "lfu"),
    Scenario("untimed", 0.3, timed=False),
    Scenario("large", 130, large=True),
)


class Manager(jm.MmapManager):
    """Tells which dimensions it evicts: what the policies choose has tests of its own."""

    def __init__(self, *args, **options):
        self.victims = []
        super().__init__(*args, **options)

    def _evict(self, dimension):
        self.victims.append(dimension)
        super()._evict(dimension)  # private: of evictions, statistics tell the number only


def leaves(value, name=""):
    """The plain values in nested dicts and lists of dicts, by their path."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for key, each in value.items():
            yield from leaves(each, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def is_configured(name):
    """Whether a value is the same as long as a manager lives; only the smallest class is made to borrow here."""
    without_zstd = () if compression.is_available() else ("decompressed_bytes",)
    return name.endswith(("limit_bytes", "block_size", "n_blocks", "1.n_borrowed", "2.n_borrowed", *without_zstd))


def check_clock(name, found, before, count):
    """Times cannot be foretold; but their number can, and they hang together."""
    assert found.count == count, name
    times = [0, found.p50, found.p90, found.p99, found.p999, found.max]
    assert times == sorted(times), name
    assert 0 <= found.mean_ns <= found.max, name
    if count == before.count:
        assert found == before, f"{name}: nothing happened"
    else:
        assert found.max >= before.max, name
        assert found.mean_ns * found.count >= before.mean_ns * before.count * (1 - 1e-9), name


def check(found, expected, before):
    """Each field of `found` is what the oracle expects; `before` is the snapshot of one step earlier."""
    fields = {field.name for field in dataclasses.fields(jm.MemoryStats)}
    assert fields == {*expected, "avg_access_latency_us"}, "each field has a rule"
    for name in CLOCKS:
        check_clock(name, getattr(found, name), getattr(before, name), expected[name])
    assert found.avg_access_latency_us == found.access_latency.mean_ns / 1000, "avg_access_latency_us"
    if found.residency is not None:
        real = found.residency
        exact = (real.mapped_bytes, real.pool_used_bytes, real.decompressed_bytes)
        assert exact == expected["residency"], "residency"
        assert real.text_bytes == found.text_bytes, "residency"
        assert 0 <= real.resident_bytes <= real.mapped_bytes, "residency"
        assert real.pool_committed_bytes >= 0, "residency"
        assert real.metadata_bytes > 0 or not found.access_count, "residency"
    assert {name: dataclasses.astuple(each) for name, each in found.segments.items()} == expected["segments"], (
        "segments"
    )
    # The homes of the larger classes share a small limit: which block lies outside its own is the arena's to choose.
    assert all(0 <= each.n_borrowed <= each.n_used for each in found.pool.classes), "pool"
    assert expected["pool"] is not None, "pool"
    *numbers, classes = expected["pool"]
    pool = [found.pool.used_bytes, found.pool.limit_bytes, found.pool.peak_bytes]
    assert pool == numbers, "pool"
    for k, each in enumerate(found.pool.classes):
        borrowed = classes[k][4] if k == 0 else each.n_borrowed
        assert dataclasses.astuple(each) == (*classes[k][:4], borrowed, *classes[k][5:]), "pool"
    for name in fields - {*CLOCKS, "avg_access_latency_us", "residency", "segments", "pool"}:
        assert getattr(found, name) == expected[name], name
    check_states(found)


def attempt(call, *args):
    """What `call` returns, and the class of its error or None; nothing keeps what the error's frames held."""
    try:
        return call(*args), None
    except (jm.ConsciousnessError, BufferError) as error:
        return None, type(error)


def file_of(data):
    """What the oracle knows of a region file, read by plain struct."""
    region = read_region(data)
    layers = {each.layer: (len(each.content), each.raw_size) for each in region.layers}
    return File(len(data), layers, region.immutable)


def sizes_of(spec):
    """The bytes of a layer in the file and decompressed."""
    stored = compression.compress(spec.content)[0] if spec.compress else spec.content
    return len(stored), len(spec.content)


def packed_file(layers):
    """The file of a proto-dimension whose layers have these sizes in the file and decompressed."""
    data = extended_file([
        Layer(layer, bytes(stored_bytes), codec=stored_bytes != raw_bytes, raw_size=raw_bytes)
        for layer, (stored_bytes, raw_bytes) in sorted(layers.items())
    ])  # fmt: skip
    return File(len(data), layers)


def simulated_files(base):
    """What is invented, as another manager shows it."""
    with jm.MmapManager(base_path=base / "nothing", simulation="always") as memory:
        files = {}
        for dimension in jm.default_layout().dimensions:
            region = memory.load_dimension(dimension)
            sizes = [memory.access_layer(layer_id).n_bytes for layer_id in region.layers()]
            layers = {layer_id.layer: (n, n) for layer_id, n in zip(region.layers(), sizes, strict=True)}
            files[dimension] = File(region.size, layers, region.immutable, "simulated")
        return files


def region_facts(region):
    """What the oracle knows, too, of a region in a dump."""
    layers = {each["layer"]: (each["stored_bytes"], each["n_bytes"]) for each in region["layers"]}
    return region["size"], region["source"], layers


def homes_of(pools, limit_bytes):
    """Block size -> blocks at home: as configured, or each class's share of a smaller limit in whole largest blocks."""
    homes = {block_size: int(size_mb * MIB) for size_mb, block_size in pools}
    total_bytes, largest = sum(homes.values()), max(homes)
    if total_bytes > limit_bytes:
        shares = {
            size: -(-n_bytes * limit_bytes // (total_bytes * largest)) * largest for size, n_bytes in homes.items()
        }
        homes = {size: min(n_bytes, shares[size]) for size, n_bytes in homes.items()}
    return {size: n_bytes // size for size, n_bytes in homes.items()}


class Run:
    """One manager and its oracle, and what is held of both."""

    def __init__(self, base, scenario, oracle_class=Oracle):
        self.rng = random.Random(scenario.name)
        self.scenario = scenario
        self.world = World(base)
        scale = 280 if scenario.large else 1
        pools = ((4 / 256, 4096), (8 * scale, 16384), (8 * scale, 65536))
        options = {"pool_configs": pools, "record_latency": scenario.timed, "eviction_policy": scenario.policy}
        # What is published beside it is taken up when a step says so, and what is left at the end is given up.
        options |= {"trace": scenario.trace, "follow": "never", "on_close": "drop"}
        self.memory = Manager(scenario.total_mb, base_path=base, on_full=scenario.on_full, **options)
        self.oracle = oracle_class(
            self.memory.config.total_bytes,
            homes_of(pools, self.memory.config.total_bytes),
            scenario.on_full,
            scenario.timed,
            simulated_files(base),
        )
        self.holds = []  # (what is held, generation, its counter, layer or None)
        self.blocks = []  # (block, its piece)
        self.generation, self.names = 0, itertools.count()
        self.changed, self.first = set(), {}
        self.dumped = defaultdict(set)
        for dimension in (*range(1, 15), *OTHERS):
            if dimension not in SIMULATED:
                self.publish(dimension)
        self.before = self.memory.get_stats()
        self.operations = [
            (getattr(self, name), weight)
            for name, weight in {
                "access": 30, "hold_view": 8, "hold_region": 3, "release": 14, "context": 5, "read_many": 3, "load": 12,
                "unload": 5, "reload": 6, "load_all": 2, "allocate": 12, "give_back": 12, "create": 5,
                "crystallize": 3, "forget": 4, "publish_anew": 3, "remove_file": 1, "look": 3,
            }.items()
        ]  # fmt: skip

    def steps(self, n_steps):
        for number in range(n_steps):
            self.step(number)

    def step(self, number):
        (operation,) = self.rng.choices(*map(list, zip(*self.operations, strict=True)))
        self.memory.victims.clear()
        happened = operation()
        assert not self.oracle.victims, f"{operation.__name__}: evicted without need: {self.oracle.victims}"
        self.check(residency=number % 8 == 0, what=f"step {number}: {operation.__name__}{happened}")

    def check(self, residency=False, what=""):
        found, expected = self.memory.get_stats(residency), self.oracle.stats()
        try:
            check(found, expected, self.before)
        except AssertionError as error:
            error.add_note(what)
            raise
        self.before = found
        for name, value in leaves(found.to_dict()):
            if value is not None and self.first.setdefault(name, value) != value:
                self.changed.add(name)

    def both(self, call, rule, *args):
        """Do it and let the oracle do it; whether it succeeded, and what it returned."""
        result, error = attempt(call, *args)
        self.oracle.victims.extend(self.memory.victims)
        expected = rule(*args)
        assert error is expected, f"{call}{args}: {error}, expected {expected}"
        return error is None, result

    # What to choose from

    def some_dimension(self):
        known = {*self.oracle.table, *self.oracle.unmapped}
        if known and self.rng.random() < 0.85:
            return self.rng.choice(sorted(known))
        return self.rng.choice(sorted({*range(1, 15), *self.oracle.files, UNKNOWN}))

    def some_layer(self):
        dimension = self.some_dimension()
        file = self.oracle.table[dimension].file if dimension in self.oracle.table else self.oracle.files.get(dimension)
        layers = sorted(file.layers) if file and self.rng.random() < 0.9 else range(7)
        return dimension, self.rng.choice(layers)

    def some_proto(self):
        protos = self.oracle.protos
        return self.rng.choice(protos) if protos and self.rng.random() < 0.9 else self.some_dimension()

    # Files

    def publish(self, dimension):
        self.generation += 1
        rng, world = self.rng, self.world
        if self.scenario.large and dimension not in (9, 14):
            largest_mb = 30 if dimension in (15, 16, 17) else 14 if dimension >= 1000 else 8
            path = world.write_sparse(dimension, rng.randint(largest_mb // 2, largest_mb) * MIB)
            content_bytes = len(f"the end of {dimension}")
            self.oracle.files[dimension] = File(path.stat().st_size, {0: (content_bytes, content_bytes)})
            return
        if dimension in COMPRESSED and compression.is_available():
            builder = jm.RegionBuilder(dimension, "compressed", generation=self.generation)
            for layer in range(3):
                text = f"again {layer} " * rng.randint(10, 6000)
                builder.add_layer(jm.LayerSpec(text=text, compress=layer != 1))
            data = builder.to_bytes()
        else:
            is_immutable = dimension in (9, 14)
            layers = [Layer(i, b"x" * rng.randint(1, 15_000)) for i in range(rng.randint(1, 4))]
            data = extended_file(layers, dimension, b"published", immutable=is_immutable, generation=self.generation)
        world.publish(dimension, data)
        self.oracle.files[dimension] = file_of(data)

    def publish_anew(self):
        dimension = self.rng.choice([*(each for each in range(1, 14) if each != 9), *OTHERS])
        self.publish(dimension)
        return (dimension,)

    def remove_file(self):
        dimension = self.rng.choice([1, 2, 3, 6, 7, 15, 1000])
        self.world.path(dimension).unlink(missing_ok=True)
        self.oracle.files.pop(dimension, None)
        return (dimension,)

    # Loading

    def load(self):
        dimension = self.rng.choice(sorted({*range(1, 15), *self.oracle.files, UNKNOWN}))
        self.both(self.memory.load_dimension, self.oracle.load, dimension)
        return (dimension,)

    def load_all(self):
        self.both(self.memory.load_all, self.oracle.load_all)
        return ()

    def unload(self):
        dimension = self.some_dimension()
        self.both(self.memory.unload_dimension, self.oracle.unload, dimension)
        return (dimension,)

    def reload(self):
        dimension = self.some_dimension()
        self.both(self.memory.reload_dimension, self.oracle.reload, dimension)
        return (dimension,)

    # Reading

    def access_layer(self, *layer_id):
        return self.memory.access_layer(layer_id)

    def access(self):
        layer_id = self.some_layer()
        self.both(self.access_layer, self.oracle.access, *layer_id)
        return layer_id

    def context(self):
        layer_id = self.some_layer()
        rule = partial(self.oracle.access, *layer_id, n_copies=1)
        self.both(partial(self.memory.load_context, layer_id), rule)
        return layer_id

    def read_many(self):
        """Layers of one dimension: of several the later might evict the earlier, and bring them back."""
        readable = sorted(each for each, generation in self.oracle.table.items())
        if not readable:
            return ()
        dimension = self.rng.choice(readable)
        layers = [(dimension, self.rng.choice(sorted(self.oracle.table[dimension].file.layers))) for _ in range(3)]

        def rule():
            error, views = None, []
            for layer_id in layers:
                # Where each access is traced, many are read one by one.
                error = error or self.oracle.access(*layer_id, hold=True)
                if error is None:
                    views.append((self.oracle.accessed, layer_id[1]))
            for generation, layer in views:
                generation.views[layer] -= 1
            self.oracle.release_unheld()
            self.oracle.count["copies"] += 0 if error else len(layers)
            return error

        self.both(partial(self.memory.read_many, layers), rule)
        return tuple(layers)

    def look(self):
        """Questions change nothing; the dump says all that the oracle knows, in nothing but what JSON has."""
        self.memory.layers()
        state, stats = self.memory.dump_state(), self.memory.get_stats(residency=True)
        assert json.loads(json.dumps(state, allow_nan=False)) == state
        for part in (state["stats"], plain := stats.to_dict()):
            for changing in "resident_bytes", "group_used_bytes":  # by the system, and by others of the group
                del part["residency"][changing]
        assert state["stats"] == plain
        assert state["config"] == self.memory.config.to_dict()
        oracle = self.oracle
        assert {int(dimension): region_facts(region) for dimension, region in state["regions"].items()} == {
            dimension: (generation.file.n_bytes, oracle.source_of(dimension), generation.file.layers)
            for dimension, generation in oracle.table.items()
        }
        assert {int(each): (facts["n_layers"], facts["source"]) for each, facts in state["evicted"].items()} == (
            oracle.unmapped
        )
        held = [each for each in [*oracle.table.values(), *oracle.retired] if each.held]
        assert sorted((each["dimension"], each["n_bytes"], each["retired"]) for each in state["leases"]) == sorted(
            (each.dimension, each.all_bytes, each in oracle.retired) for each in held
        )
        for name, value in leaves({**state, "stats": {}, "config": {}, "leases": dict(enumerate(state["leases"]))}):
            self.dumped[re.sub(r"\.\d+", "", name)].add(str(value))
        texts = str(stats), stats._repr_html_()
        assert all(f"{stats.access_count:,}" in text and f"{stats.evictions:,} evicted" in text for text in texts)
        return ()

    # Holding

    def hold_view(self):
        dimension, layer = self.some_layer()
        done, view = self.both(self.access_layer, partial(self.oracle.access, hold=True), dimension, layer)
        if done:
            held = view[1:3] if self.rng.random() < 0.4 else view
            self.holds.append((held, self.oracle.accessed, "views", layer))
        return dimension, layer

    def hold_region(self):
        dimension = self.some_dimension()
        done, region = self.both(self.memory.region, self.oracle.find_region, dimension)
        if done:
            generation = self.oracle.table[dimension]
            if self.rng.random() < 0.5:
                generation.n_regions += 1
                self.holds.append((region, generation, "n_regions", None))
            else:
                generation.n_buffers += 1
                self.holds.append((memoryview(region), generation, "n_buffers", None))
        return (dimension,)

    def release(self):
        if not self.holds:
            return ()
        _, generation, counter, layer = self.holds.pop(self.rng.randrange(len(self.holds)))
        if layer is None:
            setattr(generation, counter, getattr(generation, counter) - 1)
        else:
            generation.views[layer] -= 1
        self.oracle.release_unheld()
        return generation.dimension, counter

    # The pool

    def allocate(self):
        largest = 40 * MIB if self.scenario.large else 150_000
        n_bytes = int(largest ** self.rng.uniform(0, 1))
        block, error = attempt(self.memory.allocate, n_bytes)
        self.oracle.victims.extend(self.memory.victims)
        piece = self.oracle.allocate(n_bytes)
        assert (error is None) == isinstance(piece, Piece), (error, piece)
        if error is None:
            assert block.capacity == piece.capacity
            self.blocks.append((block, piece))
        return (n_bytes,)

    def give_back(self):
        if not self.blocks:
            return ()
        block, piece = self.blocks.pop(self.rng.randrange(len(self.blocks)))
        how = self.rng.choice(["deallocate", "free", "drop", "busy"])
        if how == "busy":
            with memoryview(block):
                assert attempt(self.memory.deallocate, block) == (None, BufferError)
        if how in ("deallocate", "busy"):
            self.memory.deallocate(block)
            assert attempt(self.memory.deallocate, block) == (None, jm.DoubleFree)
            self.oracle.count["deallocations"] += 1
        elif how == "free":
            block.free()
        self.oracle.free_piece(piece)
        return (how,)

    # Learning

    def learned(self):
        return sorted({each for each in self.oracle.files if each > 14}.difference(OTHERS).union(self.oracle.protos))

    def some_specs(self, n_layers):
        return [
            jm.LayerSpec(
                content=b"y" * rng.randint(1, 20_000), compress=rng.random() < 0.2 and compression.is_available()
            )
            for rng in n_layers * [self.rng]
        ]

    def create(self):
        if len(self.learned()) >= LEARNED_MAX:
            return ()
        specs, user = self.some_specs(self.rng.randint(1, 3)), self.rng.random() < 0.4
        file = packed_file(dict(enumerate(map(sizes_of, specs))))
        dimension, error = attempt(self.memory.create_proto_dimension, f"learned {next(self.names)}", specs, user)
        self.oracle.victims.extend(self.memory.victims)
        block = self.oracle.create(file, user)
        assert (error is None) == isinstance(block, Piece), (error, block)
        if error is None:
            self.oracle.introduce(dimension, file, block)
        return (dimension, user)

    def crystallize(self):
        dimension = self.some_proto()
        self.both(self.memory.crystallize, self.oracle.crystallize, dimension)
        return (dimension,)

    def forget(self):
        learned = self.learned()
        dimension = self.rng.choice(learned) if learned and self.rng.random() < 0.8 else self.some_dimension()
        self.both(self.memory.forget, self.oracle.forget, dimension)
        return (dimension,)

    # The end

    def close(self):
        self.memory.close()
        self.oracle.close()
        self.check(what="close")
        while self.holds:
            self.release()
            self.check(residency=True, what="release after close")
        while self.blocks:
            self.oracle.free_piece(self.blocks.pop()[1])
            self.check(what="a block is dropped after close")
        assert self.before.total_allocated_bytes == 0


@pytest.fixture
def quick(inject):
    """Nothing is measured here that a disk must have; simulated dimensions are meant."""
    no_disk = inject.instead("os.fsync", lambda fd: None)
    no_disk.may_miss = True  # it is no fault, only a delay less; not each run comes to it
    with no_disk, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="dimension.* simulated")
        yield


@pytest.mark.parametrize("n_steps", [600, pytest.param(2000, marks=pytest.mark.slow)])
def test_every_field_equals_the_oracle_at_each_step(tmp_path, quick, n_steps):
    changed, known, limits, dumped = set(), set(), set(), defaultdict(set)
    for scenario in SCENARIOS:
        run = Run(tmp_path / scenario.name, scenario)
        run.steps(n_steps)
        run.close()
        changed |= run.changed
        known |= run.first.keys()
        limits.add(run.before.limit_bytes)
        for name, values in run.dumped.items():
            dumped[name] |= values
    assert len(limits) > 1, "limit_bytes is the one field that does not change in a manager"
    same = sorted(name for name in known - changed if not is_configured(name))
    assert same == ["residency.text_bytes", "text_bytes"], "which have a model of their own, test_text_model"
    constant = [name for name, values in dumped.items() if len(values) == 1]
    assert constant == ["regions.n_deltas"], "nothing else in a dump is constant: nothing grows here"
    assert {"regions.stale", "regions.layers.keywords", "evicted.generation", "leases.taken_at"} <= dumped.keys()
    fields = {field.name for field in dataclasses.fields(jm.MemoryStats)}
    assert {name.partition(".")[0] for name in changed} == fields - {"limit_bytes", "text_bytes"}


def test_checker_notices_a_wrong_value_of_each_field(tmp_path, quick):
    run = Run(tmp_path, SCENARIOS[0])
    run.steps(200)
    found, expected = run.memory.get_stats(residency=True), run.oracle.stats()
    check(found, expected, run.before)
    for name, value in expected.items():
        wrong = value + 1 if isinstance(value, int | float) else None
        with pytest.raises(AssertionError, match=name):
            check(found, {**expected, name: wrong}, run.before)
        with pytest.raises(AssertionError, match="each field has a rule"):
            check(found, {each: expected[each] for each in expected if each != name}, run.before)
    with pytest.raises(AssertionError, match="avg_access_latency_us"):
        check(dataclasses.replace(found, avg_access_latency_us=0.0), expected, run.before)
    for name in CLOCKS:
        times = getattr(found, name)
        for change in ({"p50": times.max + 1}, {"mean_ns": times.max + 1}, {"max": times.max + 1}):
            with pytest.raises(AssertionError, match=name):
                check(dataclasses.replace(found, **{name: dataclasses.replace(times, **change)}), expected, run.before)


class ChargesWhatWasAsked(Oracle):
    def block_for(self, n_bytes):
        return super().block_for(n_bytes)[0], n_bytes


class ForgetsLeases(Oracle):
    def release_unheld(self):
        for generation in self.retired:
            generation.views.clear()
        super().release_unheld()


class NeverEvictsAhead(Oracle):
    def settle(self):
        pass


class CountsRefusedLoads(Oracle):
    def load(self, dimension):
        self.count["loads"] += 1
        return super().load(dimension)


@pytest.mark.parametrize("wrong", [ChargesWhatWasAsked, ForgetsLeases, NeverEvictsAhead, CountsRefusedLoads])
def test_run_notices_a_wrong_rule(tmp_path, quick, wrong):
    run = Run(tmp_path, SCENARIOS[0], wrong)
    with pytest.raises(AssertionError):
        run.steps(1000)
