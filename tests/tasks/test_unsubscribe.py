"""Leaving the marketing mail: one click, no login, and the CRM hears of it whatever its state."""

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from crm import health
from crm.providers.mock import forget_state, shared_state
from tasks import contacts, definition, engine, unsubscribe
from tasks.models import ContactMark, Notification, Sop, Task
from tests.tasks.runs import fresh

BERTA, MAIL = "cus_0002", "berta.bergstrom.2@example.com"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _firm() -> None:
    forget_state()


@pytest.fixture
def browser() -> Client:
    """A mail program: no login, and it checks the token that guards forms."""
    return Client(enforce_csrf_checks=True)


@pytest.fixture
def path() -> str:
    return urlsplit(contacts.unsubscribe_url(MAIL, BERTA)).path


def notes() -> list[str]:
    return [str(row["text"]) for row in shared_state().rows("notes") if row["customer_id"] == BERTA]


@pytest.mark.parametrize("body", [ONE_CLICK, {"leave": "yes"}], ids=["one click", "the page's button"])
def test_a_post_leaves_and_the_crm_gets_a_note(body: dict[str, str], browser: Client, path: str) -> None:
    answer = browser.post(path, body)

    assert answer.status_code == 200
    assert "You are unsubscribed" in answer.content.decode()
    marks = ContactMark.objects.values_list("person", "kind")
    assert set(marks) == {(person, "unsubscribed") for person in contacts.people_of(MAIL, BERTA)}
    engine.drain()
    (note,) = notes()
    assert note.startswith("unsubscribed: wants no marketing mail any more.")
    assert Task.objects.get().result == "done"


@pytest.mark.parametrize("spoiled", ["published", "draft", "unread draft"])
def test_a_wish_is_kept_when_the_procedure_that_writes_it_cannot_start(
    spoiled: str, browser: Client, path: str
) -> None:
    file = next(path for path in definition.shipped() if path.stem == unsubscribe.SOP)
    sop = definition.save_rows(definition.read_file(file))
    if spoiled == "published":
        Sop.objects.filter(pk=sop.pk).update(
            inputs={**sop.inputs, "why": {"type": "string", "description": "asked for by staff"}}
        )
        definition.publish(Sop.objects.get(pk=sop.pk))
    elif spoiled == "draft":
        sop.steps.update(handler="no.such")
    else:
        sop.steps.update(params={"text": "of this nobody has said that it may run"})

    assert browser.post(path, ONE_CLICK).status_code == 200

    assert ContactMark.objects.filter(kind="unsubscribed").count() == 2
    assert not Task.objects.exists()
    told = Notification.objects.get()
    assert (told.kind, told.dedupe) == ("escalation", f"unsubscribed:{BERTA}")


def test_looking_changes_nothing(browser: Client, path: str) -> None:
    for look in (browser.get, browser.head, browser.options):
        look(path)
    assert browser.post(path, {"else": "x"}).status_code == 400
    assert browser.put(path, ONE_CLICK).status_code == 405
    assert not ContactMark.objects.exists()
    assert not Task.objects.exists()
    assert not Sop.objects.exists()


def test_the_page_is_kept_by_nobody_and_tells_its_address_to_nobody(browser: Client, path: str) -> None:
    answer = browser.get(path)
    said = answer.content.decode()
    assert answer.status_code == 200
    assert "<button" in said
    assert MAIL not in said
    assert BERTA not in said
    assert answer["Cache-Control"] == "no-store"
    assert answer["Referrer-Policy"] == "no-referrer"
    assert answer["X-Robots-Tag"] == "noindex"


def test_leaving_twice_is_one_note(browser: Client, path: str) -> None:
    for _ in range(3):
        assert browser.post(path, ONE_CLICK).status_code == 200
    engine.drain()
    assert ContactMark.objects.count() == 2
    assert len(notes()) == 1


def test_while_the_crm_is_away_the_wish_holds_and_its_note_waits(browser: Client, path: str) -> None:
    health.hold("crm", "ana")
    assert browser.post(path, ONE_CLICK).status_code == 200
    engine.drain()
    task = Task.objects.get()
    assert (task.status, task.waiting_for) == ("waiting", "provider:crm")
    assert ContactMark.objects.filter(kind="unsubscribed").exists()

    health.release("crm", "ana")
    engine.signal([task.pk], "retry")
    engine.drain()
    assert fresh(task).result == "done"
    assert len(notes()) == 1


def test_staff_may_change_how_it_is_written_or_switch_it_off(browser: Client, path: str) -> None:
    file = next(path for path in definition.shipped() if path.stem == unsubscribe.SOP)
    sop = definition.save_rows(definition.read_file(file))
    sop.steps.update(handler="crm.update", params={"attributes": {"do_not_contact": True}})
    definition.publish(sop)
    browser.post(path, ONE_CLICK)
    engine.drain()
    assert shared_state().find("customers", BERTA)["do_not_contact"] is True

    definition.disable(sop)
    other = urlsplit(contacts.unsubscribe_url("emil@example.com", "cus_0005")).path
    assert browser.post(other, ONE_CLICK).status_code == 200
    assert ContactMark.objects.count() == 4
    assert Task.objects.count() == 1


def test_who_left_with_two_addresses_is_taken_off_with_the_later_one() -> None:
    for address in ("old@example.com", "new@example.com"):
        unsubscribe.leave(contacts.Leaving(contacts.person_of_address(address), BERTA))
    later = contacts.person_of_address("new@example.com")
    ContactMark.objects.filter(mark=later).delete()
    assert [mark.person for mark in ContactMark.objects.all()] == [
        contacts.person_of_address("old@example.com")
    ]


@given(st.emails(), st.text(max_size=40))
def test_a_link_leads_back_to_the_address_and_the_customer_it_was_made_for(mail: str, customer: str) -> None:
    token = contacts.unsubscribe_url(mail, customer).rpartition("/")[2]
    assert contacts.read_token(token) == contacts.Leaving(contacts.person_of_address(mail), customer)


def test_an_address_that_the_crm_does_not_have_leaves_too(browser: Client) -> None:
    browser.post(urlsplit(contacts.unsubscribe_url("Someone@Example.com")).path, ONE_CLICK)
    assert ContactMark.objects.get().person == contacts.person_of_address("someone@example.com")
    assert not Task.objects.exists()


def test_the_link_says_nothing_of_the_person_and_is_always_the_same() -> None:
    link = contacts.unsubscribe_url(MAIL, BERTA)
    assert link == contacts.unsubscribe_url(MAIL.title(), BERTA)
    assert link != contacts.unsubscribe_url("emil@example.com", BERTA)
    assert "berta" not in link
    assert len(link.rpartition("/")[2]) < 80  # it stands in plain text, too
    assert ":" not in link.partition("/unsubscribe/")[2]


@pytest.mark.parametrize(
    "spoil", [str.swapcase, lambda token: token[:-1], lambda token: f"{token}x", lambda _: "x"]
)
def test_a_forged_link_is_none(spoil: Callable[[str], str], browser: Client, path: str) -> None:
    base, _, token = path.rpartition("/")
    for call in (browser.get, lambda at: browser.post(at, ONE_CLICK)):
        answer = call(f"{base}/{spoil(token)}")
        assert answer.status_code == 404
        assert "does not work" in answer.content.decode()
    assert not ContactMark.objects.exists()


@given(st.text(max_size=60))
def test_nothing_that_is_typed_into_a_link_opens(text: str) -> None:
    assert contacts.read_token(text) is None


def test_a_link_of_another_kind_of_ours_is_none(settings: Settings) -> None:
    token = contacts.unsubscribe_url(MAIL, BERTA).rpartition("/")[2]
    settings.SECRET_KEY = "another"
    assert contacts.read_token(token) is None
    settings.SECRET_KEY_FALLBACKS = ["development-only"]
    assert contacts.read_token(token) is not None


def test_the_shipped_procedure_that_writes_it_is_there() -> None:
    assert unsubscribe.SOP in {path.stem for path in definition.shipped()}
