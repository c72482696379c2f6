"""Reading a layer that was read before, against the bare lookup that a program would do without the library."""

from __future__ import annotations

import random
import tempfile
import timeit

import jessy_mem as jm

from . import common

N_CALLS = 20_000
N_ROUNDS = 15


def least_ns(n_calls: int = N_CALLS, /, **statements) -> dict[str, float]:
    """The least time of each statement per call, in ns; they take turns. A statement is (code, names)."""
    timers = {name: timeit.Timer(code, globals=names) for name, (code, names) in statements.items()}
    least = dict.fromkeys(timers, float("inf"))
    for _ in range(N_ROUNDS):
        for name, timer in timers.items():
            least[name] = min(least[name], timer.timeit(n_calls) / n_calls * 1e9)
    for timer in timers.values():
        timer.inner.__globals__.clear()  # a function may outlive its use, views must not
    return least


class Hit:
    """`access_layer` of a layer of the corpus, warm."""

    def setup(self):
        self.memory = jm.MmapManager(base_path=common.corpus(), simulation="never")
        self.memory.load_all()
        self.layer_id = jm.LayerId(1, 0)
        self.view = self.memory.access_layer(self.layer_id)
        common.prefault(self.view)
        self.lookup = {self.layer_id: memoryview(self.view)}

    def teardown(self):
        self.lookup.clear()
        del self.view
        self.memory.close()

    def time_access_layer(self):
        self.memory.access_layer(self.layer_id)

    def time_dict_lookup(self):
        self.lookup[self.layer_id]

    def time_memoryview(self):
        memoryview(self.view)

    def time_slice(self):
        self.view[100:200]

    def time_region_access(self):
        self.memory.region(1).access(4096, 100)

    def time_load_context(self):
        self.memory.load_context(self.layer_id)

    def time_find_by_keyword(self):
        self.memory.layers(keyword="mood")

    def time_find_by_frequency(self):
        self.memory.layers(frequency=(1.0, 2.0))

    def ratio(self, ours, bare):
        names = {"access": self.memory.access_layer, "lookup": self.lookup, "layer_id": self.layer_id, "d": 1, "n": 0}
        least = least_ns(ours=(ours, names), bare=(bare, names))
        return least["ours"] / least["bare"]

    def track_ratio_to_dict_lookup(self):
        """As a caller writes it, from two ints."""
        return self.ratio("access((d, n))", "lookup[(d, n)]")

    def track_ratio_with_an_id_at_hand(self):
        """The same when the key exists already, which spares both sides the same work."""
        return self.ratio("access(layer_id)", "lookup[layer_id]")

    def track_ratio_of_a_subscript(self):
        """``memory[k]`` beside ``d[k]``, the key at hand. Two readings of the clock may cost more than ``d[k]``."""
        names = {"memory": self.memory, "d": self.lookup, "k": self.layer_id}
        least = least_ns(ours=("memory[k]", names), bare=("d[k]", names))
        return least["ours"] / least["bare"]

    def track_ratio_of_a_method(self):
        """``memory.access_layer(k)`` beside ``d.__getitem__(k)``: bar 1.05."""
        names = {"memory": self.memory, "d": self.lookup, "k": self.layer_id}
        least = least_ns(ours=("memory.access_layer(k)", names), bare=("d.__getitem__(k)", names))
        return least["ours"] / least["bare"]

    def track_ratio_of_a_slice(self):
        """``view[100:200]`` beside the same of a memoryview that is at hand: bar 1.1."""
        least = least_ns(ours=("v[100:200]", {"v": self.view}), bare=("v[100:200]", {"v": memoryview(self.view)}))
        return least["ours"] / least["bare"]

    track_ratio_to_dict_lookup.unit = track_ratio_with_an_id_at_hand.unit = "x"
    track_ratio_of_a_subscript.unit = track_ratio_of_a_method.unit = track_ratio_of_a_slice.unit = "x"


class Accounting:
    """What counting and timing adds to a hit, and what eviction does."""

    unit = "ns"

    def setup(self):
        self.managers = {
            "timed": jm.MmapManager(base_path=common.corpus(), simulation="never"),
            "counted": jm.MmapManager(base_path=common.corpus(), simulation="never", record_latency=False),
        }
        for memory in self.managers.values():
            memory.load_dimension(1)
            memory.access_layer((1, 0))

    def teardown(self):
        for memory in self.managers.values():
            memory.close()

    def track_added_by_timing(self):
        code = "memory.access_layer(layer_id)"
        least = least_ns(
            **{name: (code, {"memory": memory, "layer_id": (1, 0)}) for name, memory in self.managers.items()}
        )
        return least["timed"] - least["counted"]

    def track_added_by_eviction(self):
        """Per hit, when eviction takes the visited marks before every 16 hits, far more often than it ever does."""
        memory = self.managers["counted"]
        names = {"access": memory.access_layer, "layer_id": (1, 0), "ask": memory._take_visits}
        hits = "; ".join(["access(layer_id)"] * 16)
        least = least_ns(on=(f"ask(); {hits}", names), off=(hits, names), ask=("ask()", names))
        return (least["on"] - least["off"] - least["ask"]) / 16


class Text:
    """A layer as a LoadedContext, against the bare decoding of its bytes."""

    params = (4096, 65536, 1 << 20)
    param_names = ("n_bytes",)

    def setup(self, n_bytes):
        self.folder = tempfile.TemporaryDirectory()
        sentence = "The quick brown fox jumps over the lazy dog. "
        text = (sentence * (n_bytes // len(sentence) + 1))[:n_bytes]
        path = jm.RegionBuilder(1, "Text").add_layer(jm.LayerSpec(text=text)).write(jm.region_path(self.folder.name, 1))
        self.memory = jm.MmapManager(base_path=self.folder.name, simulation="never")
        self.memory.load_dimension(1, path)
        self.view = self.memory.access_layer((1, 0))

    def teardown(self, n_bytes):
        del self.view
        self.memory.close()
        self.folder.cleanup()

    def time_load_context(self, n_bytes):
        self.memory.load_context((1, 0))

    def time_bare_decode(self, n_bytes):
        str(self.view, "ascii")

    def track_ratio_to_bare_decode(self, n_bytes):
        names = {"memory": self.memory, "view": self.view}
        n_calls = max(50, N_CALLS * 256 // n_bytes)
        least = least_ns(n_calls, ours=("memory.load_context((1, 0))", names), bare=('str(view, "ascii")', names))
        return least["ours"] / least["bare"]

    track_ratio_to_bare_decode.unit = "x"


class KeptText:
    """`view.text` of a layer of the corpus that was decoded before: with a cache of texts, and without."""

    def setup(self):
        self.managers = {
            name: jm.MmapManager(base_path=common.corpus(), simulation="never", text_cache_mb=size_mb)
            for name, size_mb in (("on", 16), ("off", 0))
        }
        self.key = jm.LayerId(1, 0)
        self.names = {"key": self.key, "lookup": {}}
        for name, memory in self.managers.items():
            memory.load_dimension(1)
            self.names[name] = memory[self.key]
            self.names["lookup"][self.key] = self.names[name].text

    def teardown(self):
        self.names.clear()
        for memory in self.managers.values():
            memory.close()

    def time_text_kept(self):
        _ = self.names["on"].text

    def time_text_decoded(self):
        _ = self.names["off"].text

    def time_load_context_kept(self):
        self.managers["on"].load_context(self.key)

    def track_ratio_to_dict_lookup(self):
        """A kept ``view.text`` beside ``d[k]``, the key at hand: bar 2."""
        names = dict(self.names)
        least = least_ns(ours=("on.text", names), bare=("lookup[key]", names))
        return least["ours"] / least["bare"]

    track_ratio_to_dict_lookup.unit = "x"


# The Universal Declaration of Human Rights, article 1, in letters that look like others.
# ruff: noqa: RUF001
SAMPLES = {
    "English": """All human beings are born free and equal in dignity and rights. They are endowed with reason and
        conscience and should act towards one another in a spirit of brotherhood.""",
    "French": """Tous les êtres humains naissent libres et égaux en dignité et en droits. Ils sont doués de raison et de
        conscience et doivent agir les uns envers les autres dans un esprit de fraternité.""",
    "Turkish": """Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. Akıl ve vicdana sahiptirler ve
        birbirlerine karşı kardeşlik zihniyeti ile hareket etmelidirler.""",
    "Russian": """Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью
        и должны поступать в отношении друг друга в духе братства.""",
    "Hindi": """सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है। उन्हें बुद्धि और
        अन्तरात्मा की देन प्राप्त है और परस्पर उन्हें भाईचारे के भाव से बर्ताव करना चाहिये।""",
    "Chinese": "人人生而自由， 在尊严和权利上 一律平等。 他们赋有 理性和良心， 并应 以兄弟关系的精神 相对待。",
    "emoji": "😀 🎉 👍🏽 ❤️ 🚀 🌍",
}


class Decoding:
    """`view.text` of 1 MiB, against CPython's decoder of the same bytes: words of a text in an order by chance."""

    params = tuple(SAMPLES)
    param_names = ("script",)
    unit = "x"

    def setup(self, script):
        words = SAMPLES[script].split()
        n_bytes = 4096 if common.SMALL else 1 << 20
        chosen = random.Random(script).choices(words, k=n_bytes)
        text = ("" if script in ("Chinese", "emoji") else " ").join(chosen).encode()[:n_bytes].decode(errors="ignore")
        self.folder = tempfile.TemporaryDirectory()
        path = jm.RegionBuilder(1, "Text").add_layer(jm.LayerSpec(text=text)).write(jm.region_path(self.folder.name, 1))
        self.region = jm.MmapRegion(1, path)
        self.view = self.region.layer(0)
        assert self.view.text == text

    def teardown(self, script):
        del self.view
        self.region.close()
        self.folder.cleanup()

    def time_text(self, script):
        _ = self.view.text

    def track_speedup_over_cpython(self, script):
        names = {"view": self.view, "data": bytes(self.view)}
        least = least_ns(2 if common.SMALL else 10, ours=("view.text", names), bare=("data.decode()", names))
        return least["bare"] / least["ours"]


class Many:
    """`read_many` of 1,000 layers of 128 bytes against joining their views, which are there already; warm."""

    params = ("in order", "at random")
    param_names = ("order",)
    unit = "x"

    def setup(self, order):
        self.folder = tempfile.TemporaryDirectory()
        builder = jm.RegionBuilder(1, "Many")
        for i in range(20 if common.SMALL else 1000):
            builder.add_layer(jm.LayerSpec(text=f"{i:0128}"))
        builder.write(jm.region_path(self.folder.name, 1))
        self.memory = jm.MmapManager(base_path=self.folder.name, simulation="never")
        self.memory.load_dimension(1)
        self.ids = self.memory.layers()
        if order == "at random":
            random.Random(1).shuffle(self.ids)
        self.views = self.memory.access_many(self.ids)

    def teardown(self, order):
        self.views.clear()
        self.memory.close()
        self.folder.cleanup()

    def time_read_many(self, order):
        self.memory.read_many(self.ids)

    def time_access_many(self, order):
        self.memory.access_many(self.ids)

    def track_ratio_to_join(self, order):
        names = {"memory": self.memory, "ids": self.ids, "views": self.views}
        n_calls = 2 if common.SMALL else 200
        least = least_ns(n_calls, ours=("memory.read_many(ids)", names), bare=('b"".join(views)', names))
        return least["ours"] / least["bare"]


class ManyLarge:
    """`read_many` of 56 layers of 64 KiB against one memcpy of as many bytes; both into fresh memory."""

    unit = "x"

    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        builder = jm.RegionBuilder(1, "Many")
        for i in range(56):
            builder.add_layer(jm.LayerSpec(text=f"{i:065536}"))
        builder.write(jm.region_path(self.folder.name, 1))
        self.memory = jm.MmapManager(base_path=self.folder.name, simulation="never")
        self.memory.load_dimension(1)
        self.ids = self.memory.layers()
        self.data = self.memory.read_many(self.ids).data

    def teardown(self):
        self.memory.close()
        self.folder.cleanup()

    def time_read_many(self):
        self.memory.read_many(self.ids)

    def track_speed_over_memcpy(self):
        names = {"memory": self.memory, "ids": self.ids, "data": self.data}
        least = least_ns(2 if common.SMALL else 20, ours=("memory.read_many(ids)", names), bare=("data.copy()", names))
        return least["bare"] / least["ours"]


class ManyThreads:
    """`read_many` of so many MiB into a buffer that is there, by two threads over one. Warm."""

    params = (1, 4, 16, 64)
    param_names = ("size_mb",)
    unit = "x"

    def setup(self, size_mb):
        n_bytes = (1 << 12 if common.SMALL else 1 << 20) * size_mb // 16
        self.folder = tempfile.TemporaryDirectory()
        builder = jm.RegionBuilder(20, "Many")
        for i in range(16):
            builder.add_layer(jm.LayerSpec(content=bytes([i]) * n_bytes))
        builder.write(jm.region_path(self.folder.name, 20))
        self.memory = jm.MmapManager(base_path=self.folder.name, simulation="never")
        self.memory.load_dimension(20)
        self.ids, self.out = self.memory.layers(), bytearray(16 * n_bytes)
        self.memory.read_many(self.ids, out=self.out)

    def teardown(self, size_mb):
        self.memory.close()
        self.folder.cleanup()

    def track_speedup_of_two_threads(self, size_mb):
        names = {"read": self.memory.read_many, "ids": self.ids, "out": self.out}
        n_calls = 1 if size_mb > 4 else 10
        least = least_ns(n_calls, one=("read(ids, out=out)", names), two=("read(ids, out=out, threads=2)", names))
        return least["one"] / least["two"]
