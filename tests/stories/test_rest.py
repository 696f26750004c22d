"""A look at a firm names all that is due there. Nobody works here but the test, so nothing is done unseen."""

from datetime import timedelta

import pytest

from tests.processes import eventually
from tests.stories.firm import Firm, moment
from tests.stories.rest import due
from tests.stories.stage import Row

CAMPAIGN, ONE, SECOND = "past-customer-reactivation", "reactivate-customer", "reactivation-follow-up"
CHILD = "(SELECT id FROM tasks_task WHERE waiting_for LIKE 'approval:%' ORDER BY id LIMIT 1)"
CHILDREN = "parent_id IS NOT NULL AND status = 'waiting'"
MESSAGE = "kind = 'approval'"
DUE = f"UPDATE tasks_notification SET state = 'pending', wake_at = '{{now}}' WHERE {MESSAGE}"
AWAY = (
    "WITH away AS (INSERT INTO tasks_pulse (name, at, data) "
    "VALUES ('chat:away', '{now}'::timestamptz + interval '5 seconds', '{{}}'))"
)


@pytest.fixture(scope="module", autouse=True)
def _prepared(firm: Firm) -> None:
    firm.prepares("2027-02-14", "12:00", SECOND, ONE, CAMPAIGN)


def test_what_an_hour_brings_is_named_until_the_last_message_is_posted(firm: Firm) -> None:
    assert due(firm.desk.sql, firm.offset()) == {}
    firm.stand_at(moment("2027-02-15", "09:00") + timedelta(seconds=0.5))
    assert due(firm.desk.sql, firm.offset()) == {f"slot of {CAMPAIGN}": 1}

    def worked_off() -> bool:
        firm.desk.sweep()
        firm.desk.manage("engine", "drain")
        return not due(firm.desk.sql, firm.offset())

    eventually(worked_off, 60, what=lambda: due(firm.desk.sql, firm.offset()))
    assert firm.results(ONE) == {"waiting": 5, "skipped": 2}
    assert firm.said_in("#marketing", "5 questions wait for an answer.")


NAMED = {
    "a run that was stopped and told to go on": (
        f"UPDATE tasks_task SET status = 'paused', wake_at = '{{now}}' WHERE id = {CHILD}",
        f"run of {ONE}, approve, paused approval:",
    ),
    "a parent whose children are over": (
        f"UPDATE tasks_task SET status = 'failed', wake_at = NULL WHERE {CHILDREN}",
        f"run of {CAMPAIGN}, ",
    ),
    "a child whose siblings are all listed": (
        f"UPDATE tasks_task SET waiting_for = 'listing', wake_at = NULL WHERE id = {CHILD}",
        f"run of {ONE}, approve, waiting listing",
    ),
    "a child of a run that was cancelled": (
        f"UPDATE tasks_task SET status = 'cancelled', sealed = NULL, request = NULL, wake_at = NULL "
        f"WHERE id IN (SELECT parent_id FROM tasks_task WHERE id = {CHILD})",
        f"run of {ONE}, approve, waiting approval:",
    ),
    "a run that was held until the CRM answers": (
        f"UPDATE tasks_task SET waiting_for = 'provider:crm', wake_at = NULL WHERE id = {CHILD}",
        f"run of {ONE}, approve, waiting provider:crm",
    ),
    "a run whose values are kept too long": (
        f"UPDATE tasks_task SET scrub_at = '{{now}}' WHERE id = {CHILD}",
        f"run of {ONE}, approve, waiting approval:",
    ),
    "a message in somebody's hands": (
        "UPDATE tasks_notification SET state = 'pending', attempts = 1, "
        f"wake_at = '{{now}}'::timestamptz + interval '60 seconds' WHERE {MESSAGE}",
        "message of kind approval to chat #marketing ",
    ),
    "a message in the line of its channel": (
        "UPDATE tasks_notification SET state = 'pending', attempts = 0, reason = 'paced', "
        f"wake_at = '{{now}}'::timestamptz + interval '3 seconds' WHERE {MESSAGE}",
        "message of kind approval to chat #marketing paced",
    ),
    "a message to a chat that was too slow once": (
        f"{AWAY} {DUE}",
        "message of kind approval to chat #marketing ",
    ),
    "a question that nobody was told of": (
        f"UPDATE tasks_approval SET message_id = NULL WHERE task_id = {CHILD}",
        "question that nobody was told of",
    ),
    "a CRM of whose fall staff do not know": (
        "UPDATE crm_health SET state = 'silent', since = '{now}', generation = told + 1",
        "news of the crm",
    ),
}
UNNAMED = {
    "a message that waits to be counted": (
        "UPDATE tasks_notification SET state = 'pending', attempts = 0, reason = 'folding', "
        f"wake_at = '{{now}}'::timestamptz + interval '30 seconds' WHERE {MESSAGE}"
    ),
    "a message while chat is away": f"{AWAY} {DUE}",
}


@pytest.mark.parametrize("change", NAMED)
def test_what_somebody_will_see_to_is_named(firm: Firm, change: str) -> None:
    statement, name = NAMED[change]
    found = names_after(firm, statement)
    assert found
    assert [one for one in found if not one.startswith(name)] == []


@pytest.mark.parametrize("change", UNNAMED)
def test_what_waits_for_a_later_hour_is_not_named(firm: Firm, change: str) -> None:
    assert names_after(firm, UNNAMED[change], down="chat") == []


def test_a_look_that_is_late_does_not_miss_who_takes_a_message_meanwhile(firm: Firm) -> None:
    lease = f"clock_timestamp() + interval '{firm.offset() + 60} seconds'"
    take = f"UPDATE tasks_notification SET state = 'pending', attempts = 1, wake_at = {lease} WHERE {MESSAGE}"

    def taken_meanwhile(statement: str) -> list[Row]:
        firm.desk.sql(take)
        return firm.desk.sql(statement)

    firm.desk.sql("BEGIN")
    try:
        assert due(taken_meanwhile, firm.offset()) == {"message of kind approval to chat #marketing ": 1}
    finally:
        firm.desk.sql("ROLLBACK")


def names_after(firm: Firm, statement: str, down: str = "") -> list[str]:
    """Return what a look names after this change of the rows, which is then undone."""
    firm.desk.sql("BEGIN")
    try:
        firm.desk.sql(statement.format(now=firm.now().isoformat()))
        return sorted(due(firm.desk.sql, firm.offset(), down=down))
    finally:
        firm.desk.sql("ROLLBACK")
