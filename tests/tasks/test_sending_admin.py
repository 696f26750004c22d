"""The pages where staff name days off, and people who want no marketing mail."""

from datetime import date

import pytest
from django.contrib.admin.models import LogEntry
from pytest_django import Settings

from tasks import contacts
from tasks.models import ContactMark, Holiday
from tests.tasks.clocks import chicago, mover
from tests.tasks.office import person

pytestmark = pytest.mark.django_db
LIST = "/admin/tasks/contactmark/"
MAY = ("view_contactmark", "add_contactmark", "delete_contactmark")


def test_staff_name_a_day_off() -> None:
    ana = person("ana", "view_holiday", "add_holiday")
    answer = ana.post(
        "/admin/tasks/holiday/add/", {"day": "2027-07-05", "name": "Independence Day, observed"}
    )
    assert answer.status_code == 302
    assert Holiday.objects.get().day == date(2027, 7, 5)
    assert "Independence Day, observed" in ana.get("/admin/tasks/holiday/").content.decode()


def test_the_list_says_which_shipped_holidays_are_kept(settings: Settings) -> None:
    mover(settings)(chicago(2027, 5, 30, 12, 0))
    settings.HOLIDAYS = ["christmas", "memorial", "new_year"]
    said = person("ana", "view_holiday").get("/admin/tasks/holiday/").content.decode()
    days = "Memorial Day (Mon 31 May 2027), Christmas Day (Sat 25 Dec 2027), New Year&#x27;s Day (Sat 1 Jan"
    assert days in said


def test_an_address_is_put_on_the_list_as_a_hash_and_nowhere_else() -> None:
    ana = person("ana", *MAY)
    assert ana.post(f"{LIST}add/", {"address": "Ada@Example.test"}).status_code == 302
    mark = ContactMark.objects.get()
    assert (mark.person, mark.kind) == (contacts.person_of_address("ada@example.test"), "unsubscribed")
    assert "ada" not in f"{list(LogEntry.objects.values())}{ana.get(LIST).content.decode()}".lower().replace(
        "readable", ""
    )


def test_whoever_is_on_the_list_is_found_by_the_address_and_can_be_taken_off() -> None:
    ana = person("ana", *MAY)
    ana.post(f"{LIST}add/", {"address": "ada@example.test"})
    again = ana.post(f"{LIST}add/", {"address": "ada@example.test"})
    where = f"{LIST}{ContactMark.objects.get().pk}/delete/"
    assert "is on the list already" in again.content.decode()
    assert where in again.content.decode()
    ana.post(where, {"post": "yes"})
    assert not ContactMark.objects.exists()


def test_who_left_as_an_address_and_as_a_customer_is_taken_off_as_both() -> None:
    ana, people = person("ana", *MAY), contacts.people_of("ada@example.test", "cus_0001")
    for one in people:
        ContactMark.objects.create(person=one, kind="unsubscribed", at="2027-03-01T00:00Z", mark=people[0])
    other = ContactMark.objects.create(person="q", kind="unsubscribed", at="2027-03-01T00:00Z", mark="q")
    ana.post(f"{LIST}{ContactMark.objects.get(person=people[0]).pk}/delete/", {"post": "yes"})
    assert ContactMark.objects.get() == other


def test_that_somebody_was_written_to_cannot_be_taken_back_by_hand() -> None:
    ana = person("ana", *MAY)
    mark = ContactMark.objects.create(person="p", kind="marketing", at="2027-03-01T00:00Z", mark="t:s:1")
    assert ana.post(f"{LIST}{mark.pk}/delete/", {"post": "yes"}).status_code == 403
    assert ana.get(f"{LIST}{mark.pk}/change/").status_code == 200
    ana.post(f"{LIST}{mark.pk}/change/", {"person": "q"})
    assert ContactMark.objects.get().person == "p"


def test_who_may_only_look_adds_nobody() -> None:
    bob = person("bob", "view_contactmark")
    assert bob.post(f"{LIST}add/", {"address": "ada@example.test"}).status_code == 403
    assert not ContactMark.objects.exists()
