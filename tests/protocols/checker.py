"""A model checker: all interleavings of a few small processes, on memory that is as weak as C11 allows.

A process is a generator function. It yields operations (`load`, `store`, `cas`, `add`, `step`, ...) and is sent what
they give, as a thread would go on with it; between two of them it does what nobody else can see. It may assert, and so
may `always`, which is asked after each operation, and `finally_`, which is asked when all processes have ended. All
orders are tried, each state once: a state is the memory and what each process was given so far, which decides what it
does.

Memory is that of Kang et al. (POPL 2017) without promises. Each place has a history of values. A thread has a view: how
far in each history it has got. A relaxed load may give any value that is not older; a store that releases leaves the
thread's view with the value, and who acquires that value has the view, too. Read-modify-writes take the newest value,
and pass on the view that they found. Left out: loads that are done after later stores of the same thread, and stores to
one place by several threads in another order than that of time.

`step` is for what is not memory: a system call, or what is done under a lock. It is a function of the `world`, which
all see in one order, to the new world and a result; while it gives None the process waits. Who takes a step has seen
what all had seen who took one before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Process = Callable[[], Generator[Any, Any, None]]
Rule = Callable[[dict[str, Any], Any], None]  # of the newest values, by place, and the world; it asserts


class Operation(NamedTuple):
    kind: str  # "load", "store", "update", "step", "fence"
    place: str = ""
    orders: bool = False  # acquires, releases, or both
    does: Any = None  # the value of a store; of an update or step the function


def load(place: str) -> Operation:
    return Operation("load", place)


def load_acquire(place: str) -> Operation:
    return Operation("load", place, True)


def wait_for(place: str, condition: Callable[[Any], bool]) -> Operation:
    """Acquire a value that meets a condition, as who looks again and again; until there is one the process waits."""
    return Operation("load", place, True, condition)


def store(place: str, value: Hashable) -> Operation:
    return Operation("store", place, False, value)


def store_release(place: str, value: Hashable) -> Operation:
    return Operation("store", place, True, value)


def add(place: str, change: int, orders: bool = True) -> Operation:
    """Gives the value before."""
    return Operation("update", place, orders, lambda value: value + change)


def or_(place: str, bits: int, orders: bool = True) -> Operation:
    return Operation("update", place, orders, lambda value: value | bits)


def and_(place: str, bits: int, orders: bool = True) -> Operation:
    return Operation("update", place, orders, lambda value: value & bits)


def cas(place: str, expected: Hashable, desired: Hashable, orders: bool = True) -> Operation:
    """Gives the value that was found: it is done if that is the expected one."""
    return Operation("update", place, orders, lambda value: desired if value == expected else None)


def update(place: str, does: Callable[[Any], Any], orders: bool = True) -> Operation:
    """Any read-modify-write; gives the value before. Where `does` gives None it is a load only."""
    return Operation("update", place, orders, does)


def step(does: Callable[[Any], tuple[Any, Any] | None]) -> Operation:
    return Operation("step", does=does)


def fence_acquire() -> Operation:
    return Operation("fence")


class Message(NamedTuple):
    value: Any
    view: tuple[int, ...]


class Thread(NamedTuple):
    given: tuple[Any, ...] = ()  # what its operations gave
    view: tuple[int, ...] = ()
    seen: tuple[int, ...] = ()  # what a fence would add to the view


class State(NamedTuple):
    memory: tuple[tuple[Message, ...], ...]
    threads: tuple[Thread, ...]
    world: Any
    seen: tuple[int, ...]  # by those who took a step


Move = tuple[State, int, Operation]  # from where, and what which process did


class Broken(AssertionError):
    """A run that breaks a rule; its operations, one a line."""


def joined(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    return one if one == other else tuple(map(max, one, other))


def replaced(items: tuple[Any, ...], at: int, item: Any) -> tuple[Any, ...]:
    return (*items[:at], item, *items[at + 1 :])


class Checker:
    def __init__(
        self, processes: Sequence[Process], servers: Sequence[Process], memory: Mapping[str, Hashable], world: Hashable
    ) -> None:
        self.processes = [*processes, *servers]
        self.n_ending = len(processes)
        self.places = {place: i for i, place in enumerate(memory)}
        nothing = (0,) * len(memory)
        histories = tuple((Message(value, nothing),) for value in memory.values())
        self.known: dict[tuple[int, tuple[Any, ...]], Operation | None] = {}
        self.begin = State(histories, (Thread((), nothing, nothing),) * len(self.processes), world, nothing)

    def newest(self, state: State) -> dict[str, Any]:
        return {place: state.memory[i][-1].value for place, i in self.places.items()}

    def next_of(self, number: int, given: tuple[Any, ...]) -> Operation | None:
        """What a process does after its operations gave `given`; None if it has ended."""
        if (number, given) not in self.known:
            self.known[number, given] = self.replayed(number, given)
        return self.known[number, given]

    def replayed(self, number: int, given: tuple[Any, ...]) -> Operation | None:
        process = self.processes[number]()
        try:
            operation = next(process)
            for value in given:
                operation = process.send(value)
        except StopIteration:
            return None
        return operation

    def after(self, state: State, number: int, operation: Operation) -> Iterator[State]:
        """The states that `operation` of process `number` may lead to; none while it waits."""
        thread = state.threads[number]

        def gone_on(value: Any, thread: Thread, memory=state.memory, world=state.world, seen=state.seen) -> State:
            thread = Thread((*thread.given, value), thread.view, thread.seen)
            return State(memory, replaced(state.threads, number, thread), world, seen)

        if operation.kind == "step":
            done = operation.does(state.world)
            if done is not None:
                seen = joined(thread.view, state.seen)
                yield gone_on(done[1], Thread(thread.given, seen, thread.seen), world=done[0], seen=seen)
            return
        if operation.kind == "fence":
            yield gone_on(None, Thread(thread.given, joined(thread.view, thread.seen), thread.seen))
            return
        at = self.places[operation.place]
        history = state.memory[at]

        def written(value: Any, view: tuple[int, ...], before: tuple[int, ...]) -> tuple[tuple[int, ...], Any]:
            view = replaced(view, at, len(history))
            alone = replaced((0,) * len(view), at, len(history))
            message = Message(value, joined(before, view if operation.orders else alone))
            return view, replaced(state.memory, at, (*history, message))

        if operation.kind == "store":
            view, memory = written(operation.does, thread.view, (0,) * len(thread.view))
            yield gone_on(None, Thread(thread.given, view, thread.seen), memory)
            return
        for i in range(thread.view[at], len(history)):
            message = history[i]
            if operation.kind == "load" and operation.does is not None and not operation.does(message.value):
                continue
            seen = joined(thread.seen, message.view)
            view = replaced(thread.view, at, i)
            if operation.orders:
                view = joined(view, message.view)
            if operation.kind == "update":
                value = operation.does(message.value)
                if value is not None and i + 1 < len(history):
                    continue  # a read-modify-write takes the newest value only
                if value is not None:
                    view, memory = written(value, view, message.view)
                    yield gone_on(message.value, Thread(thread.given, view, seen), memory)
                    continue
            yield gone_on(message.value, Thread(thread.given, view, seen))

    def run(
        self, always: Callable[[dict[str, Any], Any], None], finally_: Callable[[dict[str, Any], Any], None]
    ) -> int:
        """How many states there are; Broken, with a way to it, if a rule is broken in one."""
        came_from: dict[State, Move | None] = {self.begin: None}
        left = [self.begin]
        while left:
            state = left.pop()
            try:
                always(self.newest(state), state.world)
                moves = [(i, self.next_of(i, thread.given)) for i, thread in enumerate(state.threads)]
                following = [
                    (after, i, operation)
                    for i, operation in moves
                    if operation is not None
                    for after in self.after(state, i, operation)
                ]
                if not following:
                    ending = moves[: self.n_ending]
                    waiting = [self.processes[i].__name__ for i, operation in ending if operation is not None]
                    assert not waiting, f"for ever waiting: {waiting}"
                    finally_(self.newest(state), state.world)
            except AssertionError as error:
                raise Broken(f"{error}\n{self.way_to(state, came_from)}") from error
            for after, i, operation in following:
                move = state, i, operation
                if came_from.setdefault(after, move) is move:  # to look for a state twice costs more than all else
                    left.append(after)
        return len(came_from)

    def line(self, number: int, operation: Operation, after: State) -> str:
        what = operation.does.__name__ if operation.kind == "step" else f"{operation.kind} {operation.place}"
        return f"{number} {self.processes[number].__name__}: {what} gives {after.threads[number].given[-1]}"

    def way_to(self, state: State, came_from: dict[State, Move | None]) -> str:
        lines = []
        while (move := came_from[state]) is not None:
            before, number, operation = move
            lines.append(self.line(number, operation, state))
            state = before
        return "\n".join(["", *reversed(lines)])


def check(
    processes: Sequence[Process],
    memory: Mapping[str, Hashable],
    *,
    world: Hashable = None,
    servers: Sequence[Process] = (),
    always: Rule = lambda memory, world: None,
    finally_: Rule = lambda memory, world: None,
) -> int:
    """Try all interleavings: how many states there are. Broken, with a way to it, if a rule is broken in one.

    Each of `processes` must end, in the end; `servers` may wait for more.
    """
    return Checker(processes, servers, memory, world).run(always, finally_)
