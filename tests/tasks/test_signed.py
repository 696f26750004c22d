"""Laws of the page behind a signed link: it is one person's, shows the draft, and only a POST decides."""

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core import signing
from django.test import Client
from django.urls import reverse
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pytest_django import Settings

from tasks import approvals, asking, contacts, engine, journal, signed
from tasks.models import Approval, Notification, Task, TaskEvent
from tests.tasks.office import ACTS, ASKS, DRAFT, SEES, person
from tests.tasks.runs import begun, fresh, published

pytestmark = pytest.mark.django_db


def somebody(name: str) -> User:
    user = User.objects.create_user(name, email=f"{name}@example.test")
    user.user_permissions.add(Permission.objects.get(codename="answer_approval"))
    return User.objects.get(pk=user.pk)


@pytest.fixture
def ana() -> User:
    """To whom the link was sent."""
    return somebody("ana")


@pytest.fixture
def phone() -> Client:
    """A browser that nobody has logged in, and that checks what a real one would."""
    return Client(enforce_csrf_checks=True)


def asked(**more: Any) -> Approval:
    told = {"handler": "chat.post", "with": {"text": "done"}}
    version = published(
        {**ASKS, "with": {**ASKS["with"], **more}}, told, inputs={"customer_name": {"type": "string"}}
    )
    task = begun(version, {"customer_name": "Ada Adams"})
    engine.drain()
    return Approval.objects.get(task=task)


def path(approval: Approval, user: User) -> str:
    return reverse("approval_page", args=[signed.token(approval, user)])


def words(response: Any, status: int = 200) -> str:
    assert response.status_code == status, response.status_code
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", response.content.decode())).split())


def form_of(response: Any) -> dict[str, str]:
    """Return the hidden fields of a form on the page, as a browser would send them."""
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', response.content.decode())
    return dict(found)


def press(phone: Client, address: str, **fields: str) -> Any:
    """Open the page and press one of its buttons."""
    return phone.post(address, {**form_of(phone.get(address)), **fields})


def dump() -> list[Any]:
    return [
        list(model.objects.order_by("pk").values()) for model in (Task, TaskEvent, Approval, Notification)
    ]


# -- one answer ------------------------------------------------------------------------------------


def test_the_page_shows_what_would_be_sent_and_takes_the_answer_without_a_login(
    phone: Client, ana: User
) -> None:
    approval = asked()
    address = path(approval, ana)

    page = words(phone.get(address))
    for told in ("Send?", "about Ada Adams", "ada@example.test", "Your lawn", "Dear Ada,", "for ana alone"):
        assert told in page
    assert "Send as is. Now the run goes on" in words(press(phone, address, choice="approve"))
    approval.refresh_from_db()
    assert (approval.state, approval.choice, approval.answered_by) == ("answered", "approve", ana)
    assert "sessionid" not in phone.cookies


def test_an_edited_text_is_what_is_approved_byte_for_byte(phone: Client, ana: User) -> None:
    approval = asked()

    press(phone, path(approval, ana), choice="edit", subject="Better", text="One & two\r\n\r\n  three\r\n")

    approval.refresh_from_db()
    assert approval.edited
    letter = approvals.draft_of(approval)
    assert letter is not None
    assert (letter["subject"], letter["text"]) == ("Better", "One & two\n\n  three\n")
    assert letter["html"] == "<p>One &amp; two</p>\n<p>  three</p>"


def test_without_scripts_a_button_shows_the_preview_and_decides_nothing(phone: Client, ana: User) -> None:
    approval = asked()
    before = dump()

    response = press(phone, path(approval, ana), preview="1", subject="Better", text="One <b>\n\nTwo")

    assert "<p>One &lt;b&gt;</p>\n<p>Two</p>" in response.content.decode()
    assert "Better" in words(response)
    assert dump() == before


def test_the_preview_shows_the_way_to_unsubscribe_that_an_edit_took_out(phone: Client, ana: User) -> None:
    link = contacts.unsubscribe_url("ada@example.test")
    approval = asked(draft={**DRAFT, "text": f"Dear Ada.\n\nNo more: {link}\n"})
    address = path(approval, ana)
    asks = f'data-link="{link}" data-line="No more: {link}"'
    assert asks in phone.get(address).content.decode()

    page = press(phone, address, preview="1", subject="Better", text="One").content.decode()
    assert f"<p>One</p>\n<p>No more: {link}</p>" in page
    boss = person("boss", *SEES, *ACTS)
    given = {"preview": "1", "subject": "Better", "text": "One"}
    admin = boss.post(reverse("admin:tasks_approval_answer", args=[approval.pk]), given).content.decode()
    assert f"<p>One</p>\n<p>No more: {link}</p>" in admin
    assert asks in admin

    press(phone, address, choice="edit", subject="Better", text="One")
    letter = approvals.draft_of(Approval.objects.get(pk=approval.pk))
    assert letter is not None
    assert letter["html"] in page
    assert letter["text"] == f"One\n\nNo more: {link}\n"


def test_an_edit_that_must_not_go_out_is_shown_again_with_what_was_typed(phone: Client, ana: User) -> None:
    approval = asked()
    address = path(approval, ana)

    empty = press(phone, address, choice="edit", subject="Better", text="")
    assert "Better" in empty.content.decode()
    assert empty.status_code == 400
    placeholder = press(phone, address, choice="edit", subject="Better", text="Dear {{ name }}")
    assert "unfilled place" in words(placeholder, 409)
    assert "Dear {{ name }}" in placeholder.content.decode().replace("&#x27;", "'")
    approval.refresh_from_db()
    assert approval.state == "open"


# -- nothing but a POST from the page decides ------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "head", "options", "put", "patch", "delete", "trace"])
def test_no_other_method_decides_anything(phone: Client, ana: User, method: str) -> None:
    approval = asked()
    before = dump()

    for address in (path(approval, ana), path(approval, ana) + "/preview"):
        response = getattr(phone, method)(f"{address}?choice=approve&page={signed.page_mark('x')}")
        assert response.status_code in (200, 403, 404, 405)

    assert dump() == before


@pytest.mark.parametrize("mark", [None, "", "forged", "fälschung", "of another page"])
def test_a_post_that_does_not_come_from_the_page_decides_nothing(
    phone: Client, ana: User, mark: str | None
) -> None:
    approval = asked()
    other = asked()
    fields = {"choice": "approve"}
    if mark is not None:
        fields["page"] = signed.page_mark(signed.token(other, ana)) if mark == "of another page" else mark

    response = phone.post(path(approval, ana), fields)

    assert "did not come from this page" in words(response, 403)
    approval.refresh_from_db()
    assert approval.state == "open"


def test_a_link_in_no_message_decides_when_it_is_fetched(
    phone: Client, ana: User, settings: Settings
) -> None:
    settings.PUBLIC_URL = "https://sop.test"
    asked(who=["ana"])
    links = [card.link for row in Notification.objects.all() for card in asking.cards(row)]
    assert links
    before = dump()
    for link in links:
        for fetch in (phone.get, phone.head):
            assert fetch(link.removeprefix("https://sop.test")).status_code == 200
    assert dump() == before


# -- whose, and until when -------------------------------------------------------------------------


def spoil(what: str, approval: Approval, ana: User) -> None:
    """Let something happen between the mail and the visit."""
    if what == "answered":
        approvals.answer(approval.pk, "decline", by=somebody("bob"))
    elif what == "late":
        Approval.objects.update(expires_at=journal.database_now() - timedelta(minutes=1))
    elif what == "void":
        engine.signal([approval.task_id], "cancel")
        engine.drain()
    elif what == "handed over":
        approvals.hand_over(approval.pk, somebody("bob"), by=None)
    elif what == "inactive":
        User.objects.filter(pk=ana.pk).update(is_active=False)
    elif what == "permission":
        ana.user_permissions.clear()
    elif what == "not allowed":
        Approval.objects.update(allowed={"users": ["bob"], "groups": []})
    elif what == "asker":
        Approval.objects.update(allowed={"not": ana.pk})
    elif what == "visit":
        Approval.objects.update(visit=2)


SPOILED = {
    "answered": "bob chose “Don't send” on",
    "late": "Nobody answered in time",
    "void": "withdrawn",
    "handed over": "handed over to bob; this link is spent",
    "inactive": "login is switched off",
    "permission": "may no longer answer questions",
    "not allowed": "Only bob may answer",
    "asker": "You started this run yourself",
    "visit": "out of date",
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_link_that_is_spent_says_why_and_shows_no_draft(phone: Client, ana: User, what: str) -> None:
    approval = asked()
    address = path(approval, ana)
    fields = form_of(phone.get(address))
    spoil(what, approval, ana)
    before = dump()

    page = words(phone.get(address))
    posted = words(phone.post(address, {**fields, "choice": "approve"}), 409)

    for text in (page, posted):
        assert SPOILED[what] in text
        assert "Dear Ada" not in text
        assert "Ada Adams" not in text
    assert b"<form" not in phone.get(address).content
    assert b"Dear" not in phone.get(address + "/preview").content
    assert dump() == before


def test_a_double_click_is_told_that_it_was_the_first(phone: Client, ana: User) -> None:
    approval = asked()
    address = path(approval, ana)
    fields = {**form_of(phone.get(address)), "choice": "approve"}

    assert phone.post(address, fields).status_code == 200
    assert "ana chose “Send as is” on" in words(phone.post(address, fields), 409)
    engine.drain()
    assert fresh(approval.task).status == "completed"
    assert TaskEvent.objects.filter(kind="answered").count() == 1


@pytest.mark.parametrize("choice", ["burn", "", "edit\x00"])
def test_an_answer_that_the_question_does_not_have_is_refused_on_the_page(
    phone: Client, ana: User, choice: str
) -> None:
    assert "Not taken: This question has no answer" in words(
        press(phone, path(asked(), ana), choice=choice), 409
    )


def test_the_link_of_one_person_is_of_no_use_to_another(phone: Client, ana: User) -> None:
    bob, approval = somebody("bob"), asked()

    assert signed.token(approval, ana) != signed.token(approval, bob)
    press(phone, path(approval, bob), choice="approve")
    approval.refresh_from_db()
    assert approval.answered_by == bob


def test_a_login_in_the_same_browser_plays_no_part(phone: Client, ana: User) -> None:
    approval = asked()
    phone.force_login(User.objects.create_superuser("root"))

    press(phone, path(approval, ana), choice="approve")

    approval.refresh_from_db()
    assert approval.answered_by == ana


# -- forged links ----------------------------------------------------------------------------------


def test_a_link_with_another_key_or_salt_opens_nothing(phone: Client, ana: User, settings: Settings) -> None:
    approval = asked()
    ours = signed.token(approval, ana)
    with_other_salt = signing.Signer(salt="other", sep=".").sign_object([approval.pk.hex, ana.pk, 1])
    settings.SECRET_KEY = "x" * 50

    for token in (ours, with_other_salt):
        assert "not valid" in words(phone.get(reverse("approval_page", args=[token])), 404)


def test_every_changed_letter_of_a_link_makes_it_worthless(phone: Client, ana: User) -> None:
    token = signed.token(asked(), ana)
    for place in range(0, len(token), 7):
        other = "A" if token[place] != "A" else "B"
        forged = token[:place] + other + token[place + 1 :]
        # The last letter of a base64 text may carry bits that mean nothing.
        assert signed.opened(forged) is None or signed.opened(forged) == signed.opened(token)


@examples(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(token=st.text(min_size=1, max_size=200).filter(lambda text: "/" not in text))
def test_whatever_stands_in_a_link_the_page_answers(token: str) -> None:
    response = Client().get("/approvals/" + token.replace("%", "%25").replace("?", "%3F").replace("#", "%23"))
    assert response.status_code == 404


@pytest.mark.parametrize("inside", [[], ["x", 1, 1], ["0" * 32, "a", 1], {"a": 1}, "text", None, [1, 2, 3]])
def test_a_genuine_signature_over_nonsense_opens_nothing(phone: Client, inside: Any) -> None:
    token = signed._signer(signed._SALT).sign_object(inside)

    assert phone.get(reverse("approval_page", args=[token])).status_code == 404


# -- what is said of the page ----------------------------------------------------------------------


def test_the_page_is_kept_by_nobody_and_tells_nobody_where_it_is(phone: Client, ana: User) -> None:
    approval = asked()
    for address in (path(approval, ana), path(approval, ana) + "/preview", "/approvals/forged"):
        headers = phone.get(address).headers
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "no-store" in headers["Cache-Control"]
        assert "noindex" in headers["X-Robots-Tag"]


def test_nothing_runs_in_the_preview_of_a_mail(phone: Client, ana: User) -> None:
    evil = {**DRAFT, "html": "<p>Hello</p><script>alert(1)</script>"}
    approval = asked(draft=evil)

    response = phone.get(path(approval, ana) + "/preview")

    policy = response.headers["Content-Security-Policy"]
    assert "sandbox" in policy
    assert "default-src 'self'" in policy
    assert "unsafe-eval" not in policy
    assert "script-src" not in policy
    assert response.headers["X-Frame-Options"] == "SAMEORIGIN"
    assert "'none'" not in policy.split("frame-ancestors")[1].split(";")[0]
    assert b"<script>alert" not in phone.get(path(approval, ana)).content


def test_what_a_customer_wrote_is_only_text_on_the_page(phone: Client, ana: User) -> None:
    approval = asked(
        question="<img src=x onerror=alert(1)>", draft={**DRAFT, "text": "</div><script>x</script>"}
    )

    page = phone.get(path(approval, ana)).content.decode()

    assert "<script>x" not in page
    assert "<img" not in page


def test_the_link_ends_in_letters_that_mail_programs_keep(ana: User, settings: Settings) -> None:
    settings.PUBLIC_URL = "https://sop.test/"
    link = signed.link(asked(), ana)

    assert re.fullmatch(r"https://sop\.test/approvals/[\w-]+\.[\w-]+", link)
    assert "ada" not in link.lower()
