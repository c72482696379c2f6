"""Faults put in the way of what is tested. One that is never reached fails its test, which would have tested nothing.

Tests have this as the fixture `inject`. What is replaced is replaced for the whole process.
`tests/unit/test_helpers.py` shows that each check can fail.
"""

from __future__ import annotations

import itertools
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from pkgutil import resolve_name

import jessy_mem

PACKAGE = str(Path(jessy_mem.__file__).parent)


class Injection:
    """While it is entered, calls of `targets` ("os.fsync") go where `around`, given the plain function, says."""

    may_miss = False  # what tries one call after the other finds out that there are no more

    def __init__(self, targets: tuple[str, ...], around: Callable[[Callable], Callable]) -> None:
        self.targets, self.around = targets, around
        self.replaced: list[tuple[object, str, Callable]] = []
        self.n_calls = 0

    def __enter__(self):
        for target in self.targets:
            path, _, name = target.rpartition(".")
            owner = resolve_name(path)
            self.replaced.append((owner, name, getattr(owner, name)))
            setattr(owner, name, self.counted(self.around(getattr(owner, name))))
        return self

    def __exit__(self, *exc_info: object) -> None:
        while self.replaced:
            setattr(*self.replaced.pop())
        assert self.fired or self.may_miss, f"never reached: {', '.join(self.targets)}, called {self.n_calls} times"

    def counted(self, function: Callable) -> Callable:
        def call(*args, **kwargs):
            self.n_calls += 1
            return function(*args, **kwargs)

        return call

    @property
    def fired(self) -> bool:
        return self.n_calls > 0


class Fault(Injection):
    """Call number `at` (from 0) of `targets` raises `error`; with `for_good` each one after it does, too."""

    def __init__(self, error: BaseException, *targets: str, at: int = 0, for_good: bool = True) -> None:
        super().__init__(targets, self.failing)
        self.error, self.at, self.for_good = error, at, for_good

    def failing(self, plain: Callable) -> Callable:
        def call(*args, **kwargs):
            number = self.n_calls - 1  # this call is counted
            if number == self.at or (self.for_good and number > self.at):
                raise copy(self.error)  # new each time: nobody keeps what its traceback holds
            return plain(*args, **kwargs)

        return call

    @property
    def fired(self) -> bool:
        return self.n_calls > self.at


class FaultInPackage(Fault):
    """The same at the begin of a call of any Python function of the package, which is where Ctrl-C comes."""

    def __init__(self, error: BaseException, at: int = 0) -> None:
        super().__init__(error, f"a function of {PACKAGE}", at=at)

    def __enter__(self):
        self.before = sys.getprofile()
        sys.setprofile(self.profile)
        return self

    def __exit__(self, *exc_info: object) -> None:
        sys.setprofile(self.before)
        super().__exit__(*exc_info)

    def profile(self, frame, event: str, _arg: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            self.n_calls += 1
            if self.n_calls == self.at + 1:
                raise copy(self.error)


class Inject:
    """What the fixture `inject` is."""

    def __call__(self, error: BaseException, *targets: str, at: int = 0, for_good: bool = True) -> Fault:
        """Let `targets` fail; see `Fault`."""
        return Fault(error, *targets, at=at, for_good=for_good)

    def in_package(self, error: BaseException, at: int = 0) -> FaultInPackage:
        """Let a function of the library fail, whichever is called number `at`; see `FaultInPackage`."""
        return FaultInPackage(error, at)

    def instead(self, target: str, function: Callable) -> Injection:
        """Call `function` where `target` is meant."""
        return Injection((target,), lambda plain: function)

    def around(self, target: str, around: Callable[[Callable], Callable]) -> Injection:
        """Call what `around` makes of the plain function where `target` is meant."""
        return Injection((target,), around)

    def one_by_one(self, make: Callable[[int], Fault], at_least: int = 1) -> Iterator[Fault]:
        """`make(at)` for the first call, for the second, and so on; the last one given is past the last call.

        AssertionError if fewer than `at_least` were reached.
        """
        for at in itertools.count():
            fault = make(at)
            fault.may_miss = True
            yield fault
            if not fault.fired:
                assert at >= at_least, f"never reached: call {at} of {', '.join(fault.targets)}"
                return


@contextmanager
def descriptors_left(n: int) -> Iterator[None]:
    """So many descriptors are left for this process, and no more."""
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + n, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
