"""What is loaded for a query, and the two neighbours that ask for it and use it.

A Navigator turns a query into NavigationPaths; the layers on them are loaded as a ContextCollection; an
InterferenceEngine turns its frequencies into the dominant one. The library depends on neither neighbour: any object
with the right method will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, overload, runtime_checkable

from jessy_mem import given
from jessy_mem._core.records import LoadedContext
from jessy_mem.forking import imported
from jessy_mem.layout import LayerId
from jessy_mem.notebook import N_SHOWN, facts, listing, never_fails
from jessy_mem.notices import Notices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "ContextCollection",
    "InterferenceEngine",
    "LayerBatch",
    "LoadedContext",
    "NavigationPath",
    "Navigator",
    "layers_on",
]


def layers_on(path: NavigationPath) -> Sequence[LayerId | tuple[int, int]]:
    """The layers of a path; TypeError for what is none, such as the id of a layer."""
    try:
        return path.layers
    except AttributeError:
        raise TypeError(f"paths: {path!r} is not a NavigationPath") from None


@dataclass(frozen=True, slots=True)
class NavigationPath:
    """The layers that a query leads to, in the order in which they are to be read.

    Parameters
    ----------
    dimension : int
        The dimension the path is about.
    layers : iterable of LayerId
        Plain tuples ``(dimension, layer)`` will do. A layer that is named twice is loaded twice.
    frequency : float, optional
        Hz; of the query, if it has one.
    confidence : float
        How sure the navigator is; its own scale.
    keywords : iterable of str
        The words of the query that led here; those of a set are sorted.

    Iterables are read once and kept as tuples; numbers may be of any type (numpy scalars, Decimal). TypeError or
    ValueError for what cannot be one. Immutable, so safe to share between threads. From the seed.

    >>> path = NavigationPath(1, [(1, 0), (1, 3)], confidence=0.5)
    >>> [str(layer) for layer in path.layers]
    ['D01/L0', 'D01/L3']
    """

    dimension: int
    layers: Sequence[LayerId | tuple[int, int]]
    frequency: float | None = None
    confidence: float = 0.0
    keywords: Sequence[str] = ()

    def __post_init__(self) -> None:
        kept = {
            "dimension": LayerId.checked((self.dimension, 0)).dimension,
            "layers": tuple(LayerId.checked(layer) for layer in self.layers),
            "frequency": None if self.frequency is None else given.number(self.frequency),
            "confidence": given.number(self.confidence),
            "keywords": given.words(self.keywords),
        }
        for field, value in kept.items():
            object.__setattr__(self, field, value)


class ContextCollection(Sequence[LoadedContext]):
    """The contexts of some paths, in path order.

    Parameters
    ----------
    contexts : iterable of LoadedContext
    missing : iterable of LayerId
        The layers that were asked for and skipped, because their dimension is not there.

    A slice is a ContextCollection too; it has nothing missing. Equal if contexts and missing are. Immutable, so safe to
    share between threads. From the seed.

    >>> returns = LoadedContext(LayerId(15, 0), "Returns are free.", 1.6, ("returns",), 0, "mmap")
    >>> contexts = ContextCollection([returns], missing=[LayerId(16, 0)])
    >>> len(contexts), contexts.total_bytes, contexts.frequencies
    (1, 17, array([1.6], dtype=float32))
    >>> print(contexts.format())
    ## D15/L0 (depth 0, 1.60 Hz, mmap; keywords: returns)
    <BLANKLINE>
    Returns are free.
    <BLANKLINE>
    Not available: D16/L0
    """

    __slots__ = ("_contexts", "missing")

    def __init__(self, contexts: Iterable[LoadedContext] = (), missing: Iterable[LayerId] = ()) -> None:
        self._contexts = tuple(contexts)
        self.missing = tuple(missing)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._contexts, self.missing)

    @classmethod
    def collect(
        cls,
        paths: Iterable[NavigationPath],
        load: Callable[[LayerId], LoadedContext | None],
        notices: Notices | None = None,
    ) -> ContextCollection:
        """The layers on `paths`, one after another, as `load` gives them, which returns None for one to be skipped.

        Each that is skipped is listed in `missing`, and logged once. What `load` raises is raised.
        """
        notices = notices or Notices()
        contexts: list[LoadedContext] = []
        missing: list[LayerId] = []
        for path in paths:
            for layer_id in map(LayerId._make, layers_on(path)):
                context = load(layer_id)
                if context is None:
                    notices.warn(("context", layer_id), f"{layer_id} is not available and was skipped")
                    missing.append(layer_id)
                else:
                    contexts.append(context)
        return cls(contexts, missing)

    @property
    def total_bytes(self) -> int:
        """Bytes of all contents as UTF-8."""
        return sum(context.n_bytes for context in self._contexts)

    @property
    def frequencies(self) -> NDArray[np.float32]:
        """The frequency of each context in Hz, shape (n,): what an InterferenceEngine takes. A new array each time."""
        numpy = imported("numpy")
        found: NDArray[np.float32] = numpy.array([context.frequency for context in self._contexts], dtype=numpy.float32)
        return found

    def format(self, with_metadata: bool = True) -> str:
        """All contents as one text for a language model.

        With metadata each content follows a heading that names layer, depth, frequency, source and keywords, and what
        is missing is named at the end, so that the model can tell "nothing known" from "not loaded".
        """
        if not with_metadata:
            return "\n\n".join(context.content.strip() for context in self._contexts)
        parts = []
        for context in self._contexts:
            facts = f"depth {context.depth}, {context.frequency:.2f} Hz, {context.source}"
            if context.keywords:
                facts += f"; keywords: {', '.join(context.keywords)}"
            parts.append(f"## {context.layer_id} ({facts})\n\n{context.content.strip()}")
        if self.missing:
            parts.append(f"Not available: {', '.join(map(str, self.missing))}")
        return "\n\n".join(parts)

    @overload
    def __getitem__(self, key: int) -> LoadedContext: ...
    @overload
    def __getitem__(self, key: slice) -> ContextCollection: ...
    def __getitem__(self, key: int | slice) -> LoadedContext | ContextCollection:
        return ContextCollection(self._contexts[key]) if isinstance(key, slice) else self._contexts[key]

    def __len__(self) -> int:
        return len(self._contexts)

    def __iter__(self) -> Iterator[LoadedContext]:
        return iter(self._contexts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ContextCollection):
            return NotImplemented
        return (self._contexts, self.missing) == (other._contexts, other.missing)

    def __hash__(self) -> int:
        return hash((self._contexts, self.missing))

    def __repr__(self) -> str:
        return f"<ContextCollection of {len(self)}, {self.total_bytes} bytes, {len(self.missing)} missing>"

    @never_fails
    def _repr_html_(self) -> str:
        rows = (
            (each.layer_id, f"{each.frequency:.3g}", each.source, ", ".join(each.keywords), each.content[:80])
            for each in self._contexts
        )
        heading = f"{len(self):,} context{'s' * (len(self) != 1)}" + (
            f"; not available: {len(self.missing):,}" if self.missing else ""
        )
        missing = [("not available", ", ".join(map(str, self.missing[:N_SHOWN])))] if self.missing else []
        headings = ("layer", "Hz", "source", "keywords", "content")
        return facts(heading, missing) + listing(headings, rows, len(self), "contexts")


@dataclass(frozen=True, slots=True, eq=False)
class LayerBatch:
    """Many layers in one array, as `read_many` copies them.

    `data` is uint8, shape (total bytes,); `offsets` is int64, shape (n + 1,), in bytes: layer i is
    ``data[offsets[i]:offsets[i + 1]]``, which ``batch[i]`` returns without a copy. Safe to read from every thread.

    >>> import numpy as np
    >>> batch = LayerBatch(np.frombuffer(b"lampdesk", np.uint8), np.array([0, 4, 8]))
    >>> len(batch), bytes(batch[-1])
    (2, b'desk')
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> NDArray[np.uint8]:
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"layer {i} of a batch of {n}")
        i %= n
        return self.data[self.offsets[i] : self.offsets[i + 1]]


@runtime_checkable
class Navigator(Protocol):
    """Finds the layers that a query leads to.

    >>> class Fixed:
    ...     def navigate(self, query):
    ...         return [NavigationPath(1, [(1, 0)], keywords=query.split())]
    >>> isinstance(Fixed(), Navigator)
    True
    """

    def navigate(self, query: str) -> Sequence[NavigationPath]:
        """The paths for `query`, best first."""
        ...


@runtime_checkable
class InterferenceEngine(Protocol):
    """Combines the frequencies of the loaded layers.

    >>> class Mean:
    ...     def dominant_frequency(self, frequencies):
    ...         return float(frequencies.mean())
    >>> isinstance(Mean(), InterferenceEngine)
    True
    """

    def dominant_frequency(self, frequencies: NDArray[np.float32]) -> float:
        """The dominant frequency in Hz; `frequencies` in Hz, shape (n,)."""
        ...
