"""Hyper-parameters that cannot be: one line where they are set, not a traceback where they act."""

from __future__ import annotations

from methods.task import MethodError


def at_least(least: int, **values: int | None) -> None:
    """Refuse a number below `least`; None, where a setting may be left out, passes."""
    for name, value in values.items():
        if value is not None and value < least:
            raise MethodError(f"{name} is {value}: give {least} or more")
