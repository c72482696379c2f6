"""Paths, contexts and batches."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys

import numpy as np
import pytest

from jessy_mem.context import (
    ContextCollection,
    InterferenceEngine,
    LayerBatch,
    LoadedContext,
    NavigationPath,
    Navigator,
)
from jessy_mem.layout import LayerId

SMILE = LoadedContext(LayerId(1, 0), "A smile spreads.\n", 1.6, ("smile", "tears"), 0, "mmap")
CLOCK = LoadedContext(LayerId(5, 3), "Später — 時", 0.2, (), 3, "pool")


class View:
    id, text, frequency, keywords, depth, source = LayerId(2, 1), "Recall.", 2.5, ("recall",), 1, "simulated"


def test_path_takes_plain_tuples_and_keeps_their_order():
    path = NavigationPath(1, [(1, 2), LayerId(1, 0), (1, 2)], keywords=["smile"])
    assert path.layers == (LayerId(1, 2), LayerId(1, 0), LayerId(1, 2))
    assert all(type(layer) is LayerId for layer in path.layers)
    assert path == NavigationPath(1, ((1, 2), (1, 0), (1, 2)), None, 0.0, ("smile",))
    assert hash(path) == hash(dataclasses.replace(path))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((0, []), ValueError),
        (("1", []), TypeError),
        ((1, [1]), TypeError),
        ((1, [(1, -1)]), ValueError),
        ((1, [(1, 65536)]), ValueError),
        ((1, [], None, 0.0, "smile"), TypeError),
    ],
)
def test_path_refuses_what_is_no_layer(arguments, error):
    with pytest.raises(error):
        NavigationPath(*arguments)


@pytest.mark.parametrize(
    "value", [NavigationPath(1, ()), SMILE, LayerBatch(np.zeros(0, np.uint8), np.zeros(1, np.int64))]
)
def test_values_are_frozen_and_have_no_dict(value):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, dataclasses.fields(value)[0].name, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(value, dataclasses.fields(value)[0].name)
    assert not hasattr(value, "__dict__")


def test_context_of_a_view_has_all_its_fields():
    assert LoadedContext.of(View()) == LoadedContext(LayerId(2, 1), "Recall.", 2.5, ("recall",), 1, "simulated")


def test_bytes_are_counted_as_utf8():
    assert CLOCK.n_bytes == len(CLOCK.content.encode()) > len(CLOCK.content)
    assert ContextCollection([SMILE, CLOCK]).total_bytes == SMILE.n_bytes + CLOCK.n_bytes


def test_collection_is_a_sequence():
    contexts = ContextCollection([SMILE, CLOCK, SMILE], missing=[LayerId(9, 9)])
    assert (len(contexts), contexts[1], contexts[-1]) == (3, CLOCK, SMILE)
    assert list(contexts) == [SMILE, CLOCK, SMILE]
    assert (contexts.index(CLOCK), contexts.count(SMILE), CLOCK in contexts) == (1, 2, True)
    assert contexts[1:] == ContextCollection([CLOCK, SMILE])
    assert contexts.missing == (LayerId(9, 9),)
    assert contexts != ContextCollection(contexts)
    assert contexts != [SMILE, CLOCK, SMILE]
    assert hash(contexts[:]) == hash(ContextCollection(contexts))
    with pytest.raises(IndexError):
        contexts[3]


def test_frequencies_are_an_array_of_float32_in_path_order():
    frequencies = ContextCollection([CLOCK, SMILE]).frequencies
    assert frequencies.dtype == np.float32
    assert frequencies.tolist() == [np.float32(0.2), np.float32(1.6)]
    assert ContextCollection().frequencies.shape == (0,)


def test_format_names_each_layer_and_what_is_missing():
    contexts = ContextCollection([SMILE, CLOCK], missing=[LayerId(7, 0), LayerId(12, 3)])
    assert contexts.format() == (
        "## D01/L0 (depth 0, 1.60 Hz, mmap; keywords: smile, tears)\n\nA smile spreads.\n\n"
        "## D05/L3 (depth 3, 0.20 Hz, pool)\n\nSpäter — 時\n\n"
        "Not available: D07/L0, D12/L3"
    )
    assert contexts.format(with_metadata=False) == "A smile spreads.\n\nSpäter — 時"
    assert ContextCollection().format() == ""


def test_collect_keeps_order_and_repeats_and_logs_what_it_skips(caplog):
    loaded = {LayerId(2, 1): LoadedContext.of(View())}
    paths = [NavigationPath(2, [(2, 1), (2, 7)]), NavigationPath(3, []), NavigationPath(2, [(2, 1)])]
    with caplog.at_level(logging.WARNING, logger="jessy_mem"):
        contexts = ContextCollection.collect(paths, loaded.get)
    assert [context.layer_id for context in contexts] == [(2, 1), (2, 1)]
    assert contexts.missing == (LayerId(2, 7),)
    assert [record.getMessage() for record in caplog.records] == ["D02/L7 is not available and was skipped"]


def test_batch_slices_without_a_copy():
    batch = LayerBatch(np.frombuffer(b"smiletears", np.uint8), np.array([0, 5, 5, 10]))
    assert [bytes(layer) for layer in batch] == [b"smile", b"", b"tears"]
    assert bytes(batch[-3]) == b"smile"
    assert np.shares_memory(batch[0], batch.data)
    for outside in (3, -4):
        with pytest.raises(IndexError):
            batch[outside]


def test_protocols_are_told_apart():
    class Fixed:
        def navigate(self, query):
            return [NavigationPath(1, [(1, 0)])]

    class Mean:
        def dominant_frequency(self, frequencies):
            return float(frequencies.mean())

    assert isinstance(Fixed(), Navigator)
    assert not isinstance(Fixed(), InterferenceEngine)
    assert isinstance(Mean(), InterferenceEngine)
    assert Mean().dominant_frequency(ContextCollection([SMILE]).frequencies) == pytest.approx(1.6)


def test_importing_the_module_alone_imports_no_numpy():
    code = (
        "import sys, types; package = types.ModuleType('jessy_mem'); package.__path__ = [sys.argv[1]];"
        "sys.modules['jessy_mem'] = package; import jessy_mem.context; assert 'numpy' not in sys.modules"
    )
    import jessy_mem

    subprocess.run([sys.executable, "-c", code, jessy_mem.__path__[0]], check=True)


def test_collection_shows_its_size():
    assert repr(ContextCollection([SMILE, CLOCK])) == "<ContextCollection of 2, 32 bytes, 0 missing>"
