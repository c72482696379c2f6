"""Steps that are begun again: after an interrupt, and where there was no memory for a moment."""

from __future__ import annotations

import pytest

from jessy_mem._core.whole import Lock, mended, whole


class Step:
    """Raises each of `errors` in turn, and then gives 7."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors, self.n_repairs = list(errors), 0

    def __call__(self, *args: object) -> int:
        if self.errors:
            raise self.errors.pop(0)
        return 7

    def repair(self) -> None:
        self.n_repairs += 1


def test_a_step_that_got_no_memory_is_begun_again():
    step = Step(MemoryError(), SystemError("error return without exception set"))
    assert whole(step, 1, 2, repair=step.repair) == 7
    assert step.n_repairs == 2


def test_a_lasting_shortage_is_raised():
    step = Step(*[MemoryError() for _ in range(10)])
    with pytest.raises(MemoryError):
        whole(step, repair=step.repair)
    assert 0 < len(step.errors) < 10


def test_an_interrupt_among_shortages_is_raised_in_the_end():
    step = Step(MemoryError(), KeyboardInterrupt(), MemoryError())
    with pytest.raises(KeyboardInterrupt):
        whole(step, repair=step.repair)
    assert (step.errors, step.n_repairs) == ([], 3)


def test_another_error_ends_it():
    step = Step(ValueError(), MemoryError())
    with pytest.raises(ValueError):  # noqa: PT011  whatever it says
        whole(step, repair=step.repair)
    assert (len(step.errors), step.n_repairs) == (1, 0)


def test_what_fails_is_repaired_before_the_error_is_raised():
    act, repair = Step(ValueError("act")), Step(KeyboardInterrupt(), MemoryError(), KeyboardInterrupt())
    with pytest.raises(ValueError, match="act"):
        mended(act, repair)
    assert repair.errors == [], "an interrupt, or a moment without memory, ends no repair"
    assert mended(act, repair.repair) == 7
    assert repair.n_repairs == 0
    broken = Step(OSError("repair"))
    with pytest.raises(OSError, match="repair"):
        mended(Step(ValueError("act")), broken)
    lasting = Step(*[MemoryError() for _ in range(10)])
    with pytest.raises(MemoryError):
        mended(Step(ValueError("act")), lasting)
    assert 0 < len(lasting.errors) < 10


def test_a_lock_is_let_go_of_without_memory_too():
    class Held(Lock):
        def __enter__(self) -> None:
            self.step = Step(MemoryError(), MemoryError())

        def _leave(self) -> None:
            self.step()

    held = Held()
    with held:
        pass
    assert held.step.errors == []
