"""Numbers on the command line: a bad one is refused with what is expected."""

import argparse
import math
from collections.abc import Callable

HIGHEST_PORT = 65_535
MANY = 1_000_000
TEN_MINUTES = 600_000.0  # milliseconds


def whole_between(least: int, most: int) -> Callable[[str], int]:
    """Return a type for argparse that takes whole numbers from `least` to `most`."""

    def whole(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not usable; expected a whole number from {least} to {most}"
            )
        return int(text)

    return whole


def number_between(least: float, most: float) -> Callable[[str], float]:
    """Return a type for argparse that takes numbers from `least` to `most`; no nan, no infinity."""

    def number(text: str) -> float:
        try:
            found = float(text)
        except ValueError:
            found = math.nan
        if not least <= found <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not usable; expected a number from {least:.0f} to {most:.0f}"
            )
        return found

    return number


port = whole_between(1, HIGHEST_PORT)
port_or_free = whole_between(0, HIGHEST_PORT)
limit = whole_between(1, MANY)
count = whole_between(0, MANY)
milliseconds = number_between(0, TEN_MINUTES)
