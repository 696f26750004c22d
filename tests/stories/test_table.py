"""The table of unhappy ends: for each of the six procedures, what each way of going wrong comes to.

Each story module says under `CELLS` which of its tests shows a way, or, as text, why there is nothing
to show. A blank is refused.
"""

from collections.abc import Callable, Mapping
from types import ModuleType

import pytest

from tests.stories import (
    test_calls,
    test_collections,
    test_leads,
    test_quotes,
    test_reactivation,
    test_reviews,
)

STORIES = (test_reactivation, test_leads, test_quotes, test_reviews, test_collections, test_calls)
WAYS = (
    *("declined", "edited", "expired", "customer gone"),
    *("changed meanwhile", "CRM down", "chat down", "mail refused"),
)
SHORTEST_REASON = 30  # characters; a reason is a sentence


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__.rpartition("_")[2])
def test_each_way_of_going_wrong_is_shown_or_has_its_reason(story: ModuleType, way: str) -> None:
    cells: Mapping[str, Callable[..., None] | str] = story.CELLS
    cell = cells[way]
    if isinstance(cell, str):
        assert len(cell) >= SHORTEST_REASON, f"{way}: {cell!r} is no reason"
    else:
        assert cell.__name__.startswith("test_")
        assert getattr(story, cell.__name__) is cell


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__.rpartition("_")[2])
def test_no_cell_is_outside_the_table(story: ModuleType) -> None:
    assert set(story.CELLS) == set(WAYS)
