"""The shipped procedures write to customers when mail may leave, but for what was just asked for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pytest_django import Settings

from tasks import definition
from tests.tasks.desk import Desk, set_out

COLLECTIONS = ("collections", "invoice-stage", "invoice-letter", "invoice-watch")


@pytest.fixture
def desk(settings: Settings, tmp_path: Path) -> Iterator[Desk]:
    with set_out("mock", settings, tmp_path) as desk:
        yield desk


def test_no_shipped_mail_has_hours_of_its_own() -> None:
    steps = [step for path in definition.shipped() for step in yaml.safe_load(path.read_text())["steps"]]
    mails = [step["with"] for step in steps if step["handler"] == "email.send"]
    assert {mail["purpose"] for mail in mails} == {"marketing", "service", "transactional"}
    assert [mail for mail in mails if mail.get("window", "sending") != "sending"] == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("due", "drafted", "approved", "closed", "opening"),
    [
        ("2027-02-26", "2027-03-05T08:00", "2027-03-06T10:00", "2027-03-08T08:59", "2027-03-08T09:00"),
        ("2027-05-24", "2027-05-31T08:00", "2027-05-31T10:00", "2027-06-01T08:59", "2027-06-01T09:00"),
    ],
    ids=["Saturday", "Memorial Day"],
)
def test_a_letter_about_an_invoice_leaves_on_the_next_working_day_if_it_is_not_paid_by_then(
    desk: Desk, due: str, drafted: str, approved: str, closed: str, opening: str
) -> None:
    desk.at(f"{due}T12:00")
    desk.publish(*COLLECTIONS)
    for number in (1, 2):
        desk.invoice(1000 + number, desk.customer(number), due)
    desk.at(drafted)
    desk.at(approved)
    for question in desk.questions():
        desk.approve(question)
    assert desk.letters() == []
    desk.at(closed)
    desk.invoice(1002, "cus_0002", due, 0.0, status="paid")
    assert desk.letters() == []
    assert desk.results("invoice-letter") == ["waiting", "waiting"]
    desk.at(opening)
    assert [str(letter["To"]) for letter in desk.letters()] == ["ada1@example.com"]
    assert desk.results("invoice-letter") == ["paid", "sent"]
