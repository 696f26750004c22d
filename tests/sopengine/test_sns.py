"""Laws of messages of Amazon SNS: only what SNS signed for one of our topics is taken."""

import base64
import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import responses
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from sopengine import sns
from sopengine.models import Delivery
from sopengine.signatures import Forged, verify
from tasks import contents, deliveries
from tasks.models import Notification
from tasks.readers import Received, readers

TOPIC = "arn:aws:sns:us-east-1:123456789012:mail"
ADDRESS = f"https://sns.us-east-1.amazonaws.com/SimpleNotificationService-{'0a' * 16}.pem"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate_of(key: Any) -> bytes:
    """Return a certificate of this key, in the form that SNS serves."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(datetime(2026, 1, 1) + timedelta(days=3650))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(autouse=True)
def _known_certificate() -> Iterator[None]:
    sns.certificates[ADDRESS] = certificate_of(KEY)
    yield
    sns.certificates.clear()


def message(**changes: Any) -> dict[str, Any]:
    """Return a message before it is signed; None takes a field away."""
    usual = {
        "Type": "Notification",
        "MessageId": "n-1",
        "TopicArn": TOPIC,
        "Message": '{"notificationType": "Received", "content": "From: a@b.example\\n\\nhi"}',
        "Timestamp": "2027-03-10T18:42:00.000Z",
        "SignatureVersion": "2",
        "SigningCertURL": ADDRESS,
        **changes,
    }
    return {name: value for name, value in usual.items() if value is not None}


def signed(told: dict[str, Any], key: Any = KEY) -> bytes:
    digest = hashes.SHA1() if told.get("SignatureVersion") == "1" else hashes.SHA256()
    signature = key.sign(sns.signed_text(told), padding.PKCS1v15(), digest)
    return json.dumps({**told, "Signature": base64.b64encode(signature).decode()}).encode()


def check(raw: bytes) -> str:
    return verify("sns", {}, raw, [TOPIC], 0.0)


def code_of(act: Callable[[], str]) -> str:
    with pytest.raises(Forged) as caught:
        act()
    return caught.value.code


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("subject", [None, "Amazon SES"])
def test_what_sns_signed_is_taken(version: str, subject: str | None) -> None:
    assert check(signed(message(SignatureVersion=version, Subject=subject))) == "n-1"


def test_a_question_for_a_subscription_is_signed_over_its_own_fields() -> None:
    asked = message(Type="SubscriptionConfirmation", SubscribeURL="https://sns/", Token="t")
    assert sns.signed_text(asked).decode().split("\n")[4:10] == [
        "SubscribeURL", "https://sns/", "Timestamp", "2027-03-10T18:42:00.000Z", "Token", "t",
    ]  # fmt: skip
    assert check(signed(asked)) == "n-1"


def test_the_text_that_is_signed_is_as_amazon_says() -> None:
    assert sns.signed_text(message(Message="hi", Subject="s")).decode() == (
        f"Message\nhi\nMessageId\nn-1\nSubject\ns\nTimestamp\n2027-03-10T18:42:00.000Z\nTopicArn\n{TOPIC}\n"
        "Type\nNotification\n"
    )


@pytest.mark.parametrize("name", ["Message", "MessageId", "Timestamp", "TopicArn", "Subject", "Type"])
def test_a_signed_field_that_is_changed_is_noticed(name: str) -> None:
    told = json.loads(signed(message(Subject="s", Token="t", SubscribeURL="u")))
    told[name] = "SubscriptionConfirmation" if name == "Type" else f"{told[name]}x"
    assert code_of(lambda: check(json.dumps(told).encode())) == "wrong"


def test_another_key_or_another_topic_is_refused() -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    assert code_of(lambda: check(signed(message(), other))) == "wrong"
    assert code_of(lambda: check(signed(message(TopicArn=f"{TOPIC}-of-others")))) == "wrong"
    assert code_of(lambda: verify("sns", {}, signed(message()), [], 0.0)) == "missing"


@pytest.mark.parametrize(
    "address",
    [
        "",
        ADDRESS.replace("https", "http"),
        ADDRESS.replace("amazonaws.com", "amazonaws.com.evil.example"),
        ADDRESS.replace("sns.us-east-1.amazonaws.com", "evil.example"),
        ADDRESS.replace("sns.us-east-1.amazonaws.com", "sns.us-east-1.amazonaws.com@evil.example"),
        ADDRESS.replace("amazonaws.com", "amazonaws.com:8443"),
        ADDRESS.replace("sns.", "s3."),
        ADDRESS.replace("SimpleNotificationService", "bucket"),
        ADDRESS + "?x=1",
        ADDRESS + "#x",
        "https://sns.us-east-1.amazonaws.com/../x.pem",
    ],
)
def test_a_certificate_from_elsewhere_is_never_fetched(address: str) -> None:
    assert code_of(lambda: check(signed(message(SigningCertURL=address)))) == "malformed"


def test_what_is_no_certificate_or_of_another_kind_of_key_proves_nothing() -> None:
    raw = signed(message())
    for text in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        sns.certificates[ADDRESS] = text
        assert code_of(lambda: check(raw)) == "wrong"
    sns.certificates[ADDRESS] = certificate_of(ec.generate_private_key(ec.SECP256R1()))
    assert code_of(lambda: check(raw)) == "wrong"


@given(raw=st.binary(max_size=200) | st.builds(
    lambda name, value: json.dumps({**json.loads(signed(message())), name: value}).encode(),
    st.sampled_from(["Signature", "SignatureVersion", "Type", "SigningCertURL", "MessageId", "Message"]),
    st.text(max_size=40) | st.none() | st.integers() | st.lists(st.text(max_size=3), max_size=2),
))  # fmt: skip
def test_whatever_is_forged_is_refused_and_nothing_breaks(raw: bytes) -> None:
    assert code_of(lambda: check(raw)) in ("malformed", "wrong")


@pytest.mark.django_db
def test_only_messages_of_our_topics_are_stored_once_by_their_id(settings: Settings) -> None:
    settings.HOOKS, settings.MAIL_SNS_TOPIC = {"mail": ("sns", "sns")}, [TOPIC]
    client, kind = Client(), "text/plain; charset=UTF-8"
    for _ in range(2):
        assert client.post("/hooks/mail", signed(message()), content_type=kind).status_code == 202
    assert Delivery.objects.get().external_id == "n-1"
    settings.MAIL_SNS_TOPIC = []
    assert client.post("/hooks/mail", signed(message(MessageId="n-2")), content_type=kind).status_code == 401
    assert Delivery.objects.count() == 1


@responses.activate
@pytest.mark.django_db
def test_a_certificate_is_fetched_once_and_while_it_cannot_be_the_sender_is_asked_to_come_again(
    settings: Settings,
) -> None:
    settings.HOOKS, settings.MAIL_SNS_TOPIC = {"mail": ("sns", "sns")}, [TOPIC]
    sns.certificates.clear()
    away = responses.get(ADDRESS, status=500)
    assert Client().post("/hooks/mail", signed(message()), content_type="text/plain").status_code == 503
    assert not Delivery.objects.exists()
    responses.replace("GET", ADDRESS, body=certificate_of(KEY))
    for number in range(3):
        raw = signed(message(MessageId=f"n-{number}"))
        assert Client().post("/hooks/mail", raw, content_type="text/plain").status_code == 202
    assert len(responses.calls) == away.call_count + 1


@responses.activate
@pytest.mark.django_db
def test_a_subscription_that_sns_asks_for_is_confirmed_afterwards(settings: Settings) -> None:
    settings.HOOKS, settings.MAIL_SNS_TOPIC = {"mail": ("sns", "sns")}, [TOPIC]
    subscribe = (
        "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=arn%3Aaws&Token=2336"
    )
    confirmed = responses.get(subscribe, body="<ConfirmSubscriptionResponse/>")
    asked = signed(message(Type="SubscriptionConfirmation", Token="2336", SubscribeURL=subscribe))
    assert Client().post("/hooks/mail", asked, content_type="text/plain").status_code == 202
    assert confirmed.call_count == 0, "nothing is called before the delivery is answered"
    assert deliveries.process() == 1
    assert confirmed.call_count == 1
    assert Delivery.objects.get().state == "processed"


@pytest.mark.django_db
def test_that_the_subscription_has_ended_is_told_to_staff_once(settings: Settings) -> None:
    settings.HOOKS, settings.MAIL_SNS_TOPIC = {"mail": ("sns", "sns")}, [TOPIC]
    settings.ESCALATIONS_EMAIL = []
    ended = signed(message(Type="UnsubscribeConfirmation", Token="2336", SubscribeURL="https://sns/"))
    assert Client().post("/hooks/mail", ended, content_type="text/plain").status_code == 202
    assert deliveries.process() == 1
    delivery = Delivery.objects.get()
    again = Received(delivery.pk, "mail", "n-1", delivery.received_at, "text/plain", ended)
    assert readers.get("sns")().read(again) == []
    (told,) = Notification.objects.all()
    assert told.severity == "error"
    assert "sends us no mail any more: our subscription for mail was ended" in contents.text_of(told)
