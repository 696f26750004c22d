"""Mail to the firm on its real way in: signed, stored, read, and what the shipped SOPs make of it."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from pytest_django import Settings

from credentials import store
from credentials.models import Credential
from sopengine.models import Delivery
from tasks import replies
from tests.tasks.shop import Shop, shop

pytestmark = pytest.mark.django_db(transaction=True)

SECRET = "mail-secret"
QUOTE, LEAD, EMAIL = "quo_0100", "cus_0100", "maja.berg@example.test"
ASKS: dict[str, Any] = {
    "from": f"Maja Berg <{EMAIL}>",
    "to": ["office@example.test"],
    "subject": "Quote for mowing",
    "text": "How much is mowing?",
    "message_id": "<m1@example.test>",
}


@pytest.fixture
def firm(settings: Settings, tmp_path: Path) -> Iterator[Shop]:
    """The firm on Wednesday evening, with a mail service that posts to it."""
    settings.HOOKS = {"mail": ("hmac", "mail"), "crm": ("hmac", "json")}
    with shop("mock", settings, tmp_path) as firm:
        firm.at("2027-03-10", "18:42")
        for source in ("mail", "crm"):
            credential = Credential(service=source, kind=Credential.Kind.WEBHOOK_SECRET)
            credential.set_secret(SECRET)
            store.put(credential)
        store.forget()
        yield firm
        store.forget()


def delivers(firm: Shop, source: str = "mail", **body: Any) -> None:
    raw = json.dumps(body).encode()
    proof = hmac.new(SECRET.encode(), raw, hashlib.sha256).hexdigest()
    answer = Client().post(
        f"/hooks/{source}", raw, content_type="application/json", headers={"X-Signature": proof}
    )
    assert answer.status_code == 202, answer.content
    firm.work()


def test_one_mail_in_three_deliveries_is_one_lead_one_post_and_one_acknowledgement(firm: Shop) -> None:
    firm.publish("quote-due", "mail-reply", "new-lead-response")
    for attempt in range(3):
        delivers(firm, **ASKS, attempt=attempt)  # another body each time, the same message
    firm.at("2027-03-10", "18:47")
    assert len(firm.runs("new-lead-response")) == 1
    assert [row["name"] for row in firm.state.rows("customers") if row["email"] == EMAIL] == ["Maja Berg"]
    assert len(firm.posts("#leads-incoming", "info")) == 1
    assert firm.recipients() == {EMAIL: 1}
    assert not Delivery.objects.filter(body__isnull=False).exists(), "what was read is forgotten"


def test_an_answer_to_a_follow_up_stops_the_next_one_and_is_no_lead(firm: Shop) -> None:
    firm.at("2027-03-11", "16:00")
    firm.publish(
        "quote-close", "quote-second-follow-up", "quote-follow-up", "mail-reply", "new-lead-response"
    )
    firm.state.load("customers", [{"id": LEAD, "name": "Maja Berg", "email": EMAIL, "status": "lead"}])
    sent = next(row for row in firm.state.rows("quotes") if row["status"] == "sent")
    firm.state.load(
        "quotes", [{**sent, "id": QUOTE, "customer_id": LEAD, "sent_at": "2027-03-11T16:00:00-06:00"}]
    )
    delivers(firm, "crm", event="quote.sent", data={"quote_id": QUOTE})
    firm.at("2027-03-15", "10:00")
    firm.answer("approve", "quote-follow-up")
    (mail,) = firm.mails()

    firm.at("2027-03-22", "09:00")
    assert len(firm.questions("quote-second-follow-up")) == 1
    answer = {**ASKS, "to": [str(mail["Reply-To"])], "subject": "Re: your quote", "message_id": "<m2@x.test>"}
    delivers(firm, **answer)
    assert firm.questions() == []
    assert firm.run("quote-second-follow-up").result == "replied"
    assert firm.runs("new-lead-response") == []
    assert "How much is mowing?" in "".join(firm.notes(LEAD))
    firm.at("2027-04-12", "12:00")
    assert (firm.recipients()[EMAIL], firm.customer(LEAD)["status"]) == (1, "lead")


def test_a_complaint_in_an_answer_is_called_out_and_noted_as_one(firm: Shop) -> None:
    firm.publish("quote-due", "mail-reply", "new-lead-response")
    firm.state.load("customers", [{"id": LEAD, "name": "Maja Berg", "email": EMAIL, "status": "past"}])
    firm.at("2027-03-11", "10:00")
    delivers(firm, **{**ASKS, "to": [replies.address(uuid4(), "send")], "subject": "Re: Spring",
                      "text": "I am very unhappy with your work and want a refund."})  # fmt: skip
    assert firm.run("mail-reply").result == "complaint"
    assert "A complaint has come as an answer" in "".join(firm.posts("#escalations"))
    (note,) = firm.notes(LEAD)
    assert note.startswith("complaint: by mail, Re: Spring")
