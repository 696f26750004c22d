"""Laws of readers: what a body says, in whatever form it comes, and that no body breaks one."""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from pytest_django import Settings

from sopengine import clock, sns
from sopengine.errors import DataError, StepError
from tasks import context, mail_in, replies
from tasks.events import Event
from tasks.readers import Received, readers

pytestmark = pytest.mark.usefixtures("_us")


@pytest.fixture
def _us(settings: Settings) -> None:
    settings.DEFAULT_FROM_EMAIL = "Office <office@firm.example>"
    settings.REPLY_DOMAIN = ""


def read(reader: str, body: bytes | dict[str, Any], kind: str = "application/json") -> Sequence[Event]:
    """Return what the reader reads in a body: bytes, or values that are sent as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return readers.get(reader)().read(Received(uuid4(), "firm", "ext-1", clock.now(), kind, raw))


def only(events: Sequence[Event]) -> Event:
    assert len(events) == 1, events
    return events[0]


# -- json ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        {"event": "job.completed", "id": "e-1", "data": {"job_id": "j-7"}},
        {"event_type": "job.completed", "event_id": "e-1", "job_id": "j-7"},
        {"type": "Job.Completed", "delivery_id": "e-1", "data": {"jobId": "j-7"}},
        {"event": "job.completed", "id": "e-1", "job": {"id": "j-7"}},
    ],
    ids=["in data", "at the top", "other spelling", "inside an object"],
)
def test_one_event_is_found_in_several_forms(body: dict[str, Any]) -> None:
    event = only(read("json", body))
    assert (event.name, event.id, event.source) == ("job.completed", "e-1", "firm")
    assert event.data["job_id"] == "j-7"


def test_an_event_without_an_id_has_that_of_its_delivery() -> None:
    assert only(read("json", {"event": "call_ended"})).id == "ext-1"


def test_the_other_sides_customer_is_ours() -> None:
    data = only(read("json", {"event": "quote.sent", "data": {"customer_id": 7, "quote_id": "q-1"}})).data
    assert (data["crm_customer_id"], data["customer_id"]) == ("7", 7)
    told = {"event": "quote.sent", "data": {"customer_id": "7", "crm_customer_id": "crm-9"}}
    assert only(read("json", told)).data["crm_customer_id"] == "crm-9"


def test_objects_inside_become_fields_and_lists_stay() -> None:
    body = {"event": "call_ended", "call": {"from_number": "+1612", "ended": {"byCaller": True}}, "tags": [1]}
    data = only(read("json", body)).data
    assert data["call_from_number"] == data["from_number"] == "+1612"
    assert data["call_ended_by_caller"] is True
    assert data["tags"] == [1]


def test_only_what_the_event_is_about_stands_without_its_name_and_never_over_another_field() -> None:
    body = {
        "event": "call_ended",
        "from": "top",
        "call": {"id": 7, "from": "in"},
        "agent": {"from": "x", "n": 1},
    }
    data = only(read("json", body)).data
    assert data == {
        "from": "top", "id": 7, "call_id": 7, "call_from": "in", "agent_from": "x", "agent_n": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stamp", "at"),
    [
        ("2027-04-06T15:00:00-05:00", datetime(2027, 4, 6, 20, tzinfo=UTC)),
        ("2027-04-06T20:00:00Z", datetime(2027, 4, 6, 20, tzinfo=UTC)),
        (1807041600, datetime(2027, 4, 6, 20, tzinfo=UTC)),
        (1807041600000, datetime(2027, 4, 6, 20, tzinfo=UTC)),
        ("2027-04-06T15:00:00", None),
        ("yesterday", None),
        (-5, None),
        (10**30, None),
        (True, None),
        (None, None),
    ],
)
def test_the_time_of_an_event_is_known_where_it_is_told_with_its_zone(
    stamp: Any, at: datetime | None
) -> None:
    assert only(read("json", {"event": "e", "timestamp": stamp})).at == at


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"7",
        b"{}",
        b'{"event": ""}',
        b'{"event": "a b/c"}',
        b'{"event": 7}',
        b'{"event": "%s"}' % (b"x" * 61),
    ],
    ids=range(9),
)
def test_a_body_that_names_no_event_is_a_data_error(body: bytes) -> None:
    with pytest.raises(DataError):
        read("json", body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


@given(body=st.dictionaries(st.sampled_from(["event", "type", "data", "id", "timestamp", "x"]), JSON))
def test_no_json_breaks_its_reader_and_what_it_says_can_be_kept(body: dict[str, Any]) -> None:
    try:
        event = only(read("json", body))
    except DataError:
        return
    assert not any(isinstance(value, dict) for value in event.data.values())
    for name, value in event.about().items():
        assert context.checked_open(name, value) == value


# -- mail ----------------------------------------------------------------------------------------------

MIME = "message/rfc822"


def letter(**headers: str) -> EmailMessage:
    """Return a mail to the office."""
    message = EmailMessage()
    usual = {
        "From": "Ann Adams <ann@example.test>",
        "To": "office@firm.example",
        "Subject": "My lawn",
        "Message-ID": "<m-1@example.test>",
    }
    for name, value in {**usual, **{key.replace("_", "-"): value for key, value in headers.items()}}.items():
        if value:
            message[name] = value
    message.set_content("Please come.\n\nAnn")
    return message


def test_a_mail_says_who_wrote_what() -> None:
    event = only(read("mail", letter().as_bytes(), MIME))
    assert (event.name, event.id) == ("mail.received", "m-1@example.test")
    assert event.data == {
        "email_from": "ann@example.test",
        "email_name": "Ann Adams",
        "email_subject": "My lawn",
        "email_body": "Please come.\n\nAnn",
        "email_message_id": "m-1@example.test",
        "email_to": "office@firm.example",
        "is_auto_reply": False,
        "phone": "",
    }


def test_the_same_mail_as_json_says_the_same() -> None:
    told = {
        "from": "Ann Adams <ann@example.test>",
        "to": ["office@firm.example"],
        "subject": "My lawn",
        "text": "Please come.\r\n\r\nAnn\r\n",
        "message_id": "<m-1@example.test>",
    }
    as_mime = only(read("mail", letter().as_bytes(), MIME))
    assert only(read("mail", told)) == as_mime
    assert only(read("mail", {"raw": letter().as_string()})) == as_mime


def test_another_delivery_of_a_mail_is_the_same_event() -> None:
    again = letter()
    again["Received"] = "from relay.example by mx.example; Wed, 10 Mar 2027 18:43:00 -0600"
    ids = {only(read("mail", message.as_bytes(), MIME)).id for message in (letter(), again)}
    assert ids == {"m-1@example.test"}


def test_without_a_message_id_the_delivery_is_what_makes_it_one() -> None:
    assert only(read("mail", letter(Message_ID="").as_bytes(), MIME)).id == "ext-1"


def test_html_alone_is_read_as_text() -> None:
    message = letter()
    message.set_content(
        "<html><head><style>p {color: red}</style></head><body><p>Please&nbsp;come</p><script>x()</script>"
        "<ul><li>mowing</li><li>edging</li></ul></body></html>",
        subtype="html",
    )
    assert (
        only(read("mail", message.as_bytes(), MIME)).data["email_body"] == "Please come\n\nmowing\n\nedging"
    )


def test_the_text_wins_over_the_page_and_attachments_are_left_out() -> None:
    message = letter()
    message.add_alternative("<p>page</p>", subtype="html")
    message.add_attachment("secret plans", filename="plans.txt")
    assert only(read("mail", message.as_bytes(), MIME)).data["email_body"] == "Please come.\n\nAnn"


@pytest.mark.parametrize(
    ("raw", "subject", "body"),
    [
        (b"From: a@b.example\nSubject: =?utf-8?q?M=C3=BCller?=\n\nGr\xc3\xbc\xc3\x9fe", "Müller", "Grüße"),
        (
            b"From: a@b.example\nSubject: =?nosuch?q?x?=\nContent-Type: text/plain; charset=nosuch\n"
            b"\n\xe9t\xe9",
            "=?nosuch?q?x?=",
            "été",
        ),
        (b"From: a@b.example\nSubject: one\n two\n\nA\x00B", "one two", "AB"),
        (b"From: a@b.example\n\n" + b"x" * 30_000, "", "x" * 20_000 + " …"),
    ],
    ids=["encoded", "unknown charset", "folded and NUL", "long"],
)
def test_odd_mail_is_read_as_well_as_can_be(raw: bytes, subject: str, body: str) -> None:
    data = only(read("mail", raw, MIME)).data
    assert (data["email_subject"], data["email_body"]) == (subject, body)


@pytest.mark.parametrize(
    "headers",
    [
        {"Auto_Submitted": "auto-replied"},
        {"Auto_Submitted": "auto-generated; x=y"},
        {"Precedence": "bulk"},
        {"X_Autoreply": "yes"},
        {"Return_Path": "<>"},
        {"From": "MAILER-DAEMON@example.test"},
        {"From": "no-reply@example.test"},
        {"From": "donotreply+7@example.test"},
        {"Precedence": "auto_reply"},
    ],
)
def test_what_a_machine_wrote_is_told_as_such(headers: dict[str, str]) -> None:
    assert only(read("mail", letter(**headers).as_bytes(), MIME)).data["is_auto_reply"] is True


def test_what_a_mailing_list_hands_on_was_written_by_a_person() -> None:
    """A group that forwards, such as the firm's own info@, marks all that it forwards."""
    handed_on = {"Precedence": "list", "List_Id": "<info.firm.example>"}
    assert only(read("mail", letter(**handed_on).as_bytes(), MIME)).data["is_auto_reply"] is False
    told, _news = read("mail", letter(To=replies.address(uuid4()), **handed_on).as_bytes(), MIME)
    assert told.name == "replied"


def test_in_json_the_headers_tell_what_a_machine_wrote() -> None:
    told = {"from": "ann@example.test", "headers": [{"name": "Auto-Submitted", "value": "auto-replied"}]}
    assert only(read("mail", told)).data["is_auto_reply"] is True
    told["headers"] = {"Auto-Submitted": "no"}
    assert only(read("mail", told)).data["is_auto_reply"] is False


@pytest.mark.parametrize("news", [False, True])
def test_a_form_that_posts_as_nobody_is_from_whom_an_answer_goes_to_and_a_newsletter_is_not(
    news: bool,
) -> None:
    more = {"List_Unsubscribe": "<https://forms.example/leave>"} if news else {}
    mail = letter(From="Forms <no-reply@forms.example>", Reply_To="Ann Adams <ann@example.test>", **more)
    data = only(read("mail", mail.as_bytes(), MIME)).data
    assert (data["email_from"], data["is_auto_reply"]) == ("ann@example.test", news)


def test_a_newsletter_that_comes_as_json_is_one_too() -> None:
    told = {"from": "Seeds <noreply@seeds.example>", "reply_to": "help@seeds.example", "text": "Our prices"}
    news = {"headers": [{"name": "List-Unsubscribe", "value": "<https://seeds.example/leave>"}]}
    assert only(read("mail", {**told, **news})).data["is_auto_reply"] is True
    assert only(read("mail", told)).data["is_auto_reply"] is False


OURS = "Office <OFFICE@firm.example>"


@pytest.mark.parametrize("answers_to", ["", "office@firm.example", "reply", "nobody"])
def test_our_own_mail_is_no_news_and_the_log_says_so_by_its_ids(
    answers_to: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    reply_to = replies.address(uuid4()) if answers_to == "reply" else answers_to
    assert read("mail", letter(From=OURS, Reply_To=reply_to).as_bytes(), MIME) == []
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "the mail in delivery ext-1 from firm is our own, and dropped"


@pytest.mark.parametrize("form", ["mime", "json", "json headers"])
def test_a_mail_in_our_name_is_from_whom_an_answer_to_it_goes_to(form: str, settings: Settings) -> None:
    """So posts the site's form, often from an address that no person has."""
    settings.DEFAULT_FROM_EMAIL = "no-reply@firm.example"
    visitor = "office <no-reply@firm.example>, Ann Adams <ann@example.test>"
    told = {"from": "Our site <no-reply@firm.example>", "from_name": "Our site", "text": "Please come"}
    if form == "mime":
        events = read("mail", letter(From=str(told["from"]), Reply_To=visitor).as_bytes(), MIME)
    elif form == "json":
        events = read("mail", {**told, "reply_to": visitor})
    else:
        events = read("mail", {**told, "headers": {"Reply-To": visitor}})
    data = only(events).data
    assert (data["email_from"], data["email_name"]) == ("ann@example.test", "Ann Adams")
    assert data["is_auto_reply"] is False


def test_where_the_answer_to_anybody_elses_mail_goes_says_nothing_of_its_sender() -> None:
    data = only(read("mail", letter(Reply_To="bob@example.test").as_bytes(), MIME)).data
    assert data["email_from"] == "ann@example.test"


@pytest.mark.parametrize("raw", [b"", b"Subject: x\n\nhello", b"From: nobody\n\nhello"])
def test_a_mail_from_nobody_is_a_data_error(raw: bytes) -> None:
    with pytest.raises(DataError, match="who it is from"):
        read("mail", raw, MIME)


@effort(max_examples=200)
@given(
    raw=st.binary(max_size=400)
    | st.lists(
        st.sampled_from(
            [
                b"From: =?x?q?=@=?= <a@b.c>\n", b"From: a@b\n", b"To: (((\n", b"Subject: =?utf-8?b?%%%?=\n",
                b"Content-Type: multipart/mixed; boundary=\n", b"Content-Type: text/html; charset=\"\xff\"\n",
                b"Content-Transfer-Encoding: base64\n", b"Content-Disposition: ; filename*=x''%ff\n",
                b"Message-ID: <\xff\xfe>\n", b"\n", b"--\n", b"%%%=\n", b"<p><![CDATA[<!x", b"&#x110000;\x00",
            ]
        ),
        max_size=12,
    ).map(b"".join)
)  # fmt: skip
def test_no_mail_breaks_its_reader(raw: bytes) -> None:
    try:
        events = read("mail", raw, MIME)
    except DataError:
        return
    for event in events:
        context.check(dict(event.data), "the mail")


# -- answers to our mail -------------------------------------------------------------------------------


def test_an_answer_tells_the_run_whose_mail_it_answers() -> None:
    task = uuid4()
    answer = letter(To=f"Office <{replies.address(task, 'send')}>, other@example.test")
    told, news = read("mail", answer.as_bytes(), MIME)
    assert (told.name, told.task, dict(told.data)) == ("replied", task, {})
    assert (news.name, news.task, news.data["email_body"]) == ("mail.reply", None, "Please come.\n\nAnn")


@pytest.mark.parametrize("header", ["Cc", "Delivered_To", "X_Original_To"])
def test_the_address_of_an_answer_may_stand_in_other_headers(header: str) -> None:
    task = uuid4()
    answer = letter(**{header: replies.address(task).upper().replace("FIRM.EXAMPLE", "Firm.Example")})
    assert read("mail", answer.as_bytes(), MIME)[0].task == task


def test_an_answer_in_json_is_known_by_its_recipients() -> None:
    task = uuid4()
    told = {"from": "ann@example.test", "to": "office@firm.example", "recipient": replies.address(task)}
    assert read("mail", told)[0].task == task


def test_an_answer_by_a_machine_tells_nobody_anything() -> None:
    answer = letter(To=replies.address(uuid4()), Auto_Submitted="auto-replied")
    assert read("mail", answer.as_bytes(), MIME) == []


def forgeries(address: str) -> list[str]:
    local, _, domain = address.partition("@")
    token = local.removeprefix("reply+")
    other = "b" if token[-5] != "b" else "c"
    return [
        f"reply+{'a' * 42}@{domain}",
        f"reply+{token[:-5]}{other}{token[-4:]}@{domain}",
        f"reply+{other}{token[1:]}@{domain}" if token[0] != other else f"reply+d{token[1:]}@{domain}",
        f"reply+{token}a@{domain}",
        f"reply+{token[:-1]}@{domain}",
        f"reply-{token}@{domain}",
        f"{local}@elsewhere.example",
        f"x{address}",
        f"reply+{'1' * 42}@{domain}",
        f"reply+{'é' * 42}@{domain}",
    ]


def test_an_address_that_we_did_not_sign_is_nobodys() -> None:
    task = uuid4()
    genuine = replies.address(task)
    assert replies.task_of([genuine]) == task
    for forged in forgeries(genuine):
        assert replies.task_of([forged]) is None, forged


@given(token=st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=42, max_size=42))
def test_no_guessed_token_is_taken(token: str) -> None:
    assert replies.task_of([f"reply+{token}@firm.example"]) is None


@given(task=st.uuids())
def test_every_run_has_an_address_that_mail_systems_take(task: Any) -> None:
    address = replies.address(task)
    local = address.partition("@")[0]
    assert len(local) <= 64
    assert local == local.lower()
    assert replies.task_of(["a@b.example", address]) == task


def test_an_address_is_good_after_the_key_changed_as_long_as_the_old_one_is_kept(settings: Settings) -> None:
    task = uuid4()
    address = replies.address(task)
    old, settings.SECRET_KEY = settings.SECRET_KEY, "n" * 60
    assert replies.task_of([address]) is None
    settings.SECRET_KEY_FALLBACKS = [old]
    assert replies.task_of([address]) == task


def test_answers_go_where_the_settings_say(settings: Settings) -> None:
    settings.REPLY_DOMAIN = "in.firm.example"
    address = replies.address(uuid4())
    assert address.endswith("@in.firm.example")
    assert replies.task_of([address.replace("@in.firm.example", "@firm.example")]) is None


# -- forms ---------------------------------------------------------------------------------------------

URLENCODED = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (
            b"your-name=Ann+Adams&Email=ann%40example.test&phone=612-555-0134&message=Please+come"
            b"&service=mowing",
            URLENCODED,
        ),
        (
            b'{"name": "Ann Adams", "email": "ann@example.test", "phone": "612-555-0134",'
            b' "message": "Please come", "service": "mowing"}',
            "application/json",
        ),
        (
            b"".join(
                b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % pair
                for pair in (
                    (b"first_name", b"Ann"), (b"last_name", b"Adams"), (b"email", b"Ann <ann@example.test>"),
                    (b"tel", b"612-555-0134"), (b"message", b"Please come"), (b"service", b"mowing"),
                )
            )
            + b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.txt"\r\n\r\nsecret\r\n--x--\r\n',
            "multipart/form-data; boundary=x",
        ),
    ],
    ids=["urlencoded", "json", "multipart"],
)  # fmt: skip
def test_a_form_means_what_a_mail_with_its_words_means(raw: bytes, kind: str) -> None:
    event = only(read("form", raw, kind))
    assert (event.name, event.id) == ("mail.received", "ext-1")
    data = event.data
    assert (data["email_from"], data["email_name"], data["phone"]) == (
        "ann@example.test", "Ann Adams", "612-555-0134",
    )  # fmt: skip
    assert data["email_body"] == "Please come\nservice: mowing"
    assert data["form_service"] == "mowing"


def test_a_phone_number_is_enough_and_nothing_is_not() -> None:
    assert only(read("form", b"phone=612&message=hi", URLENCODED)).data["email_from"] == ""
    with pytest.raises(DataError, match="neither a mail address nor a phone number"):
        read("form", b"name=Ann&message=hi", URLENCODED)


def test_a_field_that_comes_twice_has_both_values() -> None:
    raw = b"email=a%40b.example&services%5B%5D=mowing&services%5B%5D=edging"
    assert only(read("form", raw, URLENCODED)).data["form_services"] == "mowing, edging"


@pytest.mark.parametrize("raw", [b"", b"&&&", b"=x", b"a=1&" * 101])
def test_a_form_without_fields_or_with_too_many_is_refused_at_once(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"fields"):
        readers.get("form")().look(raw, URLENCODED)


@given(
    raw=st.binary(max_size=300),
    kind=st.sampled_from(
        [URLENCODED, "application/json", "multipart/form-data; boundary=x", "multipart/form-data"]
    ),
)
def test_no_form_breaks_its_reader(raw: bytes, kind: str) -> None:
    try:
        readers.get("form")().look(raw, kind)
        events = read("form", raw, kind)
    except (ValueError, DataError):
        return
    context.check(dict(only(events).data), "the form")


# -- Amazon SNS ----------------------------------------------------------------------------------------


def in_sns(content: str = "", **message: Any) -> dict[str, Any]:
    ses = {"notificationType": "Received", "content": content or letter().as_string(), **message}
    return {"Type": "Notification", "MessageId": "n-1", "TopicArn": "arn:t", "Message": json.dumps(ses)}


def test_mail_by_sns_says_what_the_mail_says() -> None:
    event = only(read("sns", in_sns()))
    assert (event.name, event.id) == ("mail.received", "m-1@example.test")
    packed = base64.b64encode(letter().as_bytes()).decode()
    assert only(read("sns", in_sns(packed, receipt={"action": {"encoding": "BASE64"}}))) == event


def test_the_envelope_of_ses_says_whom_it_came_to() -> None:
    task = uuid4()
    assert read("sns", in_sns(receipt={"recipients": [replies.address(task)]}))[0].task == task


def test_what_is_no_mail_means_nothing() -> None:
    assert read("sns", in_sns(notificationType="Bounce")) == []


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"content": None}, "no_content"),
        ({"content": "%%%", "receipt": {"action": {"encoding": "BASE64"}}}, "no_content"),
    ],
)
def test_a_notice_without_the_mail_itself_is_a_data_error(message: dict[str, Any], code: str) -> None:
    with pytest.raises(DataError) as caught:
        read("sns", in_sns(**message) if "content" not in message else {
            **in_sns(), "Message": json.dumps({"notificationType": "Received", **message})
        })  # fmt: skip
    assert caught.value.reason == code


@pytest.mark.parametrize(
    "address",
    [
        "",
        "http://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com.evil.example/?Action=ConfirmSubscription",
        "https://evil.example/?x=sns.us-east-1.amazonaws.com&Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com@evil.example/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com:8443/?Action=ConfirmSubscription",
        "https://sns.us-east-1.amazonaws.com/?Action=DeleteTopic",
        "https://s3.us-east-1.amazonaws.com/?Action=ConfirmSubscription",
        "https://127.0.0.1/?Action=ConfirmSubscription",
        "https://[::1/?Action=ConfirmSubscription",
    ],
)
def test_a_subscription_is_confirmed_at_sns_itself_only(address: str) -> None:
    assert not sns.is_subscription(address)
    asked = {
        "Type": "SubscriptionConfirmation", "MessageId": "n", "TopicArn": "arn:t", "Message": "x",
        "SubscribeURL": address,
    }  # fmt: skip
    with pytest.raises(StepError) as caught:
        read("sns", asked)
    assert caught.value.reason == "address_refused"


def test_the_address_of_a_subscription_is_known() -> None:
    for region in ("us-east-1", "eu-central-1", "us-gov-west-1", "ap-southeast-2"):
        address = f"https://sns.{region}.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn&Token=2336"
        assert sns.is_subscription(address)


# -- mail that is too deep -----------------------------------------------------------------------------


def nested(depth: int) -> bytes:
    """Return the body of a multipart in a multipart in a multipart …."""
    return b"".join(
        b"--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n" % (level, level + 1)
        for level in range(depth)
    )


DEEP = {
    "multipart": b"Content-Type: multipart/mixed; boundary=b0\r\n\r\n" + nested(30),
    "deeper than any stack": b"Content-Type: multipart/mixed; boundary=b0\r\n\r\n" + nested(1500),
    "message": b"Content-Type: message/rfc822\r\n\r\n" * 30,
    "comment": b"Cc: " + b"(" * 1500 + b")" * 1500 + b" a@b.example\r\n\r\nhello",
}


@pytest.mark.parametrize("way", ["mail", "json", "sns"])
@pytest.mark.parametrize("deep", DEEP)
def test_a_mail_that_is_nested_too_deeply_is_a_data_error(deep: str, way: str) -> None:
    raw = b"From: ann@example.test\r\nMessage-ID: <m-1@example.test>\r\n" + DEEP[deep]
    ways: dict[str, tuple[str, bytes | dict[str, Any], str]] = {
        "mail": ("mail", raw, MIME),
        "json": ("mail", {"raw": raw.decode()}, "application/json"),
        "sns": ("sns", in_sns(raw.decode()), "application/json"),
    }
    with pytest.raises(DataError) as caught:
        read(*ways[way])
    assert caught.value.reason == "too_deep"


def test_a_mail_that_was_forwarded_ten_times_is_read() -> None:
    mail = letter()
    for number in range(10):
        around = letter(Subject=f"Fwd {number}")
        around.set_content("")
        around.add_attachment(mail)
        mail = around
    data = only(read("mail", mail.as_bytes(), MIME)).data
    assert (data["email_subject"], data["email_body"]) == ("Fwd 9", "Please come.\n\nAnn")


@pytest.mark.parametrize("name", ["from", "to"])
def test_a_header_in_json_may_be_too_deep_too(name: str) -> None:
    told = {"from": "ann@example.test", name: "(" * 1500 + ")" * 1500 + " a@b.example"}
    with pytest.raises(DataError) as caught:
        read("mail", told)
    assert caught.value.reason == "too_deep"


def test_a_form_that_is_nested_too_deeply_is_refused_at_once() -> None:
    kind = "multipart/form-data; boundary=b0"
    with pytest.raises(ValueError, match="too deep"):
        readers.get("form")().look(nested(3), kind)
    with pytest.raises(DataError) as caught:
        read("form", nested(3), kind)
    assert caught.value.reason == "bad_form"
    address = b"email=" + b"(" * 1500 + b")" * 1500 + b"a%40b.example"
    with pytest.raises(DataError) as caught:
        read("form", address, URLENCODED)
    assert caught.value.reason == "too_deep"


# -- pages that are no pages -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "piece",
    ["<a ", "<a b='", "<!--", "<![", "<script>", "</", "<", "&", "<1", "<title>x</title>", "< <p>"],
)
def test_a_page_of_a_megabyte_is_read_in_one_go_whatever_it_holds(piece: str) -> None:
    """With a reader that looks again and again this test would end in hours."""
    mail_in.text_of_html(piece * (1_000_000 // len(piece)))


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("<p>Hi <b>you</b><br>there", "Hi you\nthere"),
        ("a < b &amp;&nbsp;c > d", "a < b & c > d"),
        ("x<!-- <p>no</p> -->y", "xy"),
        ("<HEAD><title>No</title></HEAD><style>p{a>b}</style>yes<script>if (a<b) no()</SCRIPT >", "yes"),
        ("one<!doctype html><?xml x?>two", "onetwo"),
        ("never ends <a href='", "never ends"),
        ("\u0130<script>no</script>yes", "\u0130yes"),
    ],
)
def test_a_page_is_read_as_its_reader_reads_it(page: str, words: str) -> None:
    assert mail_in.text_of_html(page).strip() == words
