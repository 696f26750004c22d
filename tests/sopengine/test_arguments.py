"""Numbers on the command line are refused with what is expected."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

HUGE = "9" * 20


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("serve --port 99999", "from 1 to 65535"),
        ("serve --port 0", "from 1 to 65535"),
        ("demo --port 99999", "from 1 to 65535"),
        ("crm serve-mock --port 99999", "from 0 to 65535"),
        ("crm serve-mock --customers -1", "from 0 to 1000000"),
        ("crm serve-mock --customers many", "from 0 to 1000000"),
        ("crm query --limit 0", "from 1 to 1000000"),
        (f"task list --limit {HUGE}", "from 1 to 1000000"),
        ("task list --limit -1", "from 1 to 1000000"),
        ("task list --limit ²", "from 1 to 1000000"),
        (f"approval list --limit {HUGE}", "from 1 to 1000000"),
    ],
)
def test_a_number_out_of_range_is_refused_with_what_is_expected(command: str, expected: str) -> None:
    name, *words = command.split()
    with pytest.raises(
        CommandError, match=f"{words[-1]!r} is not usable; expected a whole number {expected}"
    ):
        call_command(name, *words, stdout=StringIO())
