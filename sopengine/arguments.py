"""Numbers on the command line: a bad one is refused with what is expected."""

import argparse
from collections.abc import Callable

HIGHEST_PORT = 65_535
MANY = 1_000_000


def whole_between(least: int, most: int) -> Callable[[str], int]:
    """Return a type for argparse that takes whole numbers from `least` to `most`."""

    def whole(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not usable; expected a whole number from {least} to {most}"
            )
        return int(text)

    return whole


port = whole_between(1, HIGHEST_PORT)
port_or_free = whole_between(0, HIGHEST_PORT)
limit = whole_between(1, MANY)
count = whole_between(0, MANY)
