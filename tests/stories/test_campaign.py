"""The shipped campaign on real processes, against a CRM over HTTP and a real mail server."""

from collections import Counter
from collections.abc import Callable
from email.header import decode_header, make_header
from typing import Any

from crm.mock.cast import customers_for
from tests.length import SOAK
from tests.processes import eventually
from tests.stories.stage import CAMPAIGN, CHILD, MONDAY, Row, Stage, as_dict, letter_text, notes_written

CUSTOMERS = 500 if SOAK else 240
OF_SOP = """version_id IN (SELECT v.id FROM tasks_sopversion v JOIN tasks_sop s ON s.id = v.sop_id
    WHERE s.slug = '%s')"""
CHILDREN = f"parent_id IS NOT NULL AND {OF_SOP % CHILD}"
# A second note waits five days for an answer to each mail that has left.
SECOND_NOTES = OF_SOP % "reactivation-follow-up"


def wanted(row: dict[str, Any]) -> bool:
    """Tell, in words of our own, whether the campaign is for this customer."""
    lawn = {"fertilizer", "weed_control"} & set(row["services"])
    return row["status"] == "past" and bool(lawn) and {"$year": 0} not in row["signed_seasons"]


def may_be_written_to(row: dict[str, Any]) -> bool:
    """Tell whether this customer has an address and wants mail."""
    return bool(row["email"]) and not row["do_not_contact"]


def test_every_past_customer_gets_one_run_and_after_a_yes_one_mail_and_one_note(
    stage: Callable[..., Stage],
) -> None:
    people = as_dict(customers_for(CUSTOMERS), "id")
    found = {id_ for id_, row in people.items() if wanted(row)}
    asked = {id_ for id_ in found if may_be_written_to(people[id_])}
    with stage() as firm:
        firm.crm("--customers", str(CUSTOMERS))
        firm.publish_shipped()
        firm.machine()
        firm.let_monday_come()
        firm.wait_for("waiting_for LIKE 'approval:%' AND status = 'waiting'", len(asked))
        questions = firm.questions()
        declined = answer_all(firm, questions)
        firm.wait_for("parent_id IS NULL AND status = 'completed'", 1, within=120)

        one_run_each(firm, found)
        one_mail_each(firm, questions, declined)
        one_note_each(firm, asked, declined, people)
        firm.wait_for(f"{SECOND_NOTES} AND status = 'waiting' AND sealed IS NULL", len(asked) - len(declined))
        report = f"Reactivation: {len(asked) - len(declined)} sent, {len(declined)} declined, "
        eventually(lambda: report + f"{len(found - asked)} skipped" in firm.logs(), 10, what=firm.said)
        nobody_is_started_twice(firm)


def answer_all(firm: Stage, questions: list[Row]) -> set[str]:
    """Decline every fourth draft and approve the others; return the addresses of the declined."""
    declined = {str(row["draft"]["to"]) for row in questions[::4]}
    for row in questions:
        firm.desk.answer(row["id"], "decline" if row["draft"]["to"] in declined else "approve")
    return declined


def one_run_each(firm: Stage, found: set[str]) -> None:
    """Every customer whom the campaign is for has exactly one run, and nobody else has any."""
    rows = firm.desk.sql(f"SELECT context->>'crm_customer_id' AS customer FROM tasks_task WHERE {CHILDREN}")
    assert Counter(row["customer"] for row in rows) == Counter(found)
    assert firm.count(f"status <> 'completed' AND NOT {SECOND_NOTES}") == 0, firm.said()


def one_mail_each(firm: Stage, questions: list[Row], declined: set[str]) -> None:
    """Every approved draft left once, as it was approved; of the declined none."""
    drafts = {row["draft"]["to"]: row["draft"] for row in questions}
    assert len(drafts) == len(questions)
    assert firm.post.recipients == Counter(drafts.keys() - declined)
    assert set(firm.post.ids.values()) == {1}
    for letter in firm.post.letters:
        draft = drafts[str(letter["To"])]
        assert decoded(letter["Subject"]) == draft["subject"]
        for part, kind in (("text", "text/plain"), ("html", "text/html")):
            assert letter_text(letter, kind).rstrip("\n") == draft[part].rstrip("\n")


def one_note_each(firm: Stage, asked: set[str], declined: set[str], people: Any) -> None:
    """Every customer who got a mail has one note in the CRM, and nobody else has any."""
    mailed = {id_ for id_ in asked if people[id_]["email"] not in declined}
    assert Counter(notes_written(firm.journal())) == Counter(mailed)


def nobody_is_started_twice(firm: Stage) -> None:
    """Neither two beats, nor two sweeps at once, nor a cursor put back, nor a run by hand do it."""
    tasks, letters = firm.count("true"), len(firm.post.letters)
    firm.beat("beat2")
    before = MONDAY.replace(hour=8).isoformat()
    firm.desk.sql(f"UPDATE tasks_sop SET cursor = '{before}' WHERE slug = '{CAMPAIGN}'")
    firm.desk.send("engine.sweep", 2)
    firm.manage("engine", "sweep", "--force")
    eventually(
        lambda: firm.desk.sql(
            f"SELECT 1 FROM tasks_sop WHERE slug = '{CAMPAIGN}' AND cursor > '{MONDAY.isoformat()}'"
        ),
        10,
        what="the sweep has dealt with the slot again",
    )
    assert len(firm.desk.sql("SELECT 1 FROM tasks_scheduledrun WHERE outcome = 'started'")) == 1
    assert firm.count("true") == tasks

    firm.manage("sop", "run", CAMPAIGN)
    firm.wait_for("parent_id IS NULL AND status = 'completed'", 2)
    assert firm.count(CHILDREN) == tasks - 1 - firm.count(SECOND_NOTES)
    assert len(firm.post.letters) == letters


def decoded(header: Any) -> str:
    """Return a header as a mail program shows it."""
    return str(make_header(decode_header(str(header))))
