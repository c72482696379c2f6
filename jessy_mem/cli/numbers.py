"""Numbers as values of options: what is none, or out of range, is reported together with the range."""

from __future__ import annotations

from typing import Any

import click

__all__ = ["Number"]


class Number(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A number of at least `least`, and at most `most`: a whole one if `least` is."""

    name = "number"

    def __init__(self, least: float, most: float | None = None) -> None:
        self.kind = type(least)
        self.least = least
        self.most = most
        what = "whole number" if self.kind is int else "number"
        self.asked = f"{what} of at least {least:,}" if most is None else f"{what} from {least:,} to {most:,}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            number = self.kind(value)
        except ValueError:
            number = None
        if number is None or not (self.least <= number and (self.most is None or number <= self.most)):  # or nan
            self.fail(f"{value!r} is not a {self.asked}.", param, ctx)
        return number
