"""Laws of signatures: the vectors of each scheme, and that nothing else passes."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sopengine import signatures, sns
from sopengine.errors import DataError
from sopengine.registry import UnknownName
from sopengine.signatures import Forged, verify


@dataclass(frozen=True)
class Signed:
    """One request as it was signed: the scheme, its headers, the body, the secret and the hour."""

    scheme: str
    headers: Mapping[str, str]
    raw: bytes
    secret: str
    now: float = 0.0
    external_id: str = ""

    def verify(self, *secrets: str) -> str:
        return verify(self.scheme, self.headers, self.raw, secrets or [self.secret], self.now)


STANDARD = Signed(
    "standard",
    {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    },
    b'{"test": 2432232314}',
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    1614265330,
    "msg_p5jXN8AQM9LWM0D4loKWxJek",
)
GITHUB = Signed(
    "sha256",
    {"x-hub-signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
    b"Hello, World!",
    "It's a Secret to Everybody",
)
SLACK = Signed(
    "slack",
    {
        "x-slack-request-timestamp": "1531420618",
        "x-slack-signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
    },
    b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
    b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
    b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554"
    b"%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c",
    "8f742231b10e8888abcd99yyyzzz85a5",
    1531420618,
)
PLAIN = replace(
    GITHUB,
    scheme="hmac",
    headers={"x-signature": GITHUB.headers["x-hub-signature-256"].removeprefix("sha256=")},
)
TOKEN = Signed("token", {"authorization": "Bearer s3cret-token"}, b"a=1", "s3cret-token")
VECTORS = [STANDARD, GITHUB, SLACK, PLAIN, TOKEN]
BY_NAME = pytest.mark.parametrize("signed", VECTORS, ids=lambda signed: signed.scheme)
DATED = pytest.mark.parametrize("signed", [STANDARD, SLACK], ids=lambda signed: signed.scheme)


def code_of(check: Callable[[], str]) -> str:
    with pytest.raises(Forged) as caught:
        check()
    return caught.value.code


@BY_NAME
def test_the_vector_of_the_scheme_is_accepted(signed: Signed) -> None:
    assert signed.verify() == signed.external_id


def test_every_scheme_there_is_has_a_vector_here() -> None:
    assert {signed.scheme for signed in VECTORS} == set(signatures.schemes) - {sns.SCHEME}


@BY_NAME
def test_each_of_several_secrets_opens_and_none_opens_nothing(signed: Signed) -> None:
    new = f"whsec_{base64.b64encode(b'k' * 32).decode()}"
    assert signed.verify(new, signed.secret) == signed.verify(signed.secret, new) == signed.external_id
    assert code_of(lambda: signed.verify(new)) == "wrong"
    assert code_of(lambda: verify(signed.scheme, signed.headers, signed.raw, [], signed.now)) == "missing"


@BY_NAME
def test_a_header_that_is_not_there_is_missing(signed: Signed) -> None:
    for name in signed.headers:
        left = {other: value for other, value in signed.headers.items() if other != name}
        assert code_of(replace(signed, headers=left).verify) == "missing"


@pytest.mark.parametrize("signed", [one for one in VECTORS if one is not TOKEN], ids=lambda one: one.scheme)
@given(data=st.data())
def test_another_body_is_refused(signed: Signed, data: st.DataObject) -> None:
    raw = data.draw(st.binary() | st.just(signed.raw + b" ") | st.just(signed.raw[:-1]))
    assume(raw != signed.raw)
    assert code_of(replace(signed, raw=raw).verify) == "wrong"


@DATED
@pytest.mark.parametrize(("late", "passes"), [(-301, False), (-300, True), (300, True), (301, False)])
def test_a_signature_is_good_for_five_minutes_on_both_sides(signed: Signed, late: int, passes: bool) -> None:
    moved = replace(signed, now=signed.now + late)
    if passes:
        assert moved.verify() == signed.external_id
    else:
        assert code_of(moved.verify) == "stale"


@DATED
@pytest.mark.parametrize(
    "stamp",
    [
        "",
        "x",
        "-1614265330",
        "+1614265330",
        "1614265330.0",
        "1_614_265_330",
        " 1614265330",
        "٣" * 10,
        "9" * 500,
    ],
)
def test_a_time_is_digits_and_nothing_else(signed: Signed, stamp: str) -> None:
    name = next(name for name in signed.headers if name.endswith("timestamp"))
    assert code_of(replace(signed, headers={**signed.headers, name: stamp}).verify) in (
        "malformed",
        "missing",
    )


def test_the_time_and_the_id_are_signed_too() -> None:
    for name, value in (("webhook-timestamp", "1614265331"), ("webhook-id", "msg_other")):
        assert code_of(replace(STANDARD, headers={**STANDARD.headers, name: value}).verify) == "wrong"
    later = {**SLACK.headers, "x-slack-request-timestamp": "1531420619"}
    assert code_of(replace(SLACK, headers=later).verify) == "wrong"


def test_one_good_signature_among_several_is_enough() -> None:
    right = STANDARD.headers["webhook-signature"]
    several = {**STANDARD.headers, "webhook-signature": f"v1,AAAA v1a,BBBB {right} v1,CCCC"}
    assert replace(STANDARD, headers=several).verify() == STANDARD.external_id
    for form in (right.replace("v1,", "v2,"), right.replace("v1,", "v1a,"), right.replace("v1,", "")):
        wrong = {**STANDARD.headers, "webhook-signature": form}
        assert code_of(replace(STANDARD, headers=wrong).verify) == "wrong"


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_short", "no base64 at all!", "whsec_" + "A" * 100])
def test_a_secret_that_cannot_be_one_accepts_nothing(secret: str) -> None:
    with pytest.raises(DataError, match="whsec_"):
        STANDARD.verify(secret)
    assert STANDARD.verify(secret, STANDARD.secret) == STANDARD.external_id


@pytest.mark.parametrize("header", ["x-hub-signature-256", "x-notion-signature", "x-signature-256"])
def test_the_signature_with_a_prefix_stands_in_one_of_three_headers(header: str) -> None:
    value = GITHUB.headers["x-hub-signature-256"]
    assert replace(GITHUB, headers={header: value}).verify() == ""
    assert replace(GITHUB, headers={header: value.upper()}).verify() == "", "hex may be in capitals"
    assert code_of(replace(GITHUB, headers={header: value.removeprefix("sha256=")}).verify) == "wrong"


@pytest.mark.parametrize("header", ["x-signature", "x-zoho-signature"])
def test_the_plain_signature_stands_in_one_of_two_headers(header: str) -> None:
    assert replace(PLAIN, headers={header: PLAIN.headers["x-signature"]}).verify() == ""


def test_a_token_stands_in_its_header_or_behind_the_word_bearer() -> None:
    for headers in ({"x-webhook-token": "s3cret-token"}, {"authorization": "bearer s3cret-token"}):
        assert replace(TOKEN, headers=headers).verify() == ""
    for headers, code in (
        ({"authorization": "Basic s3cret-token"}, "malformed"),
        ({"authorization": "s3cret-token"}, "malformed"),
        ({"authorization": "Bearer "}, "malformed"),
        ({"authorization": "Bearer s3cret-toke"}, "wrong"),
        ({"x-webhook-token": "S3CRET-TOKEN"}, "wrong"),
        ({"x-webhook-token": "s3cret-token" * 1000}, "malformed"),
    ):
        assert code_of(replace(TOKEN, headers=headers).verify) == code


def test_an_unknown_scheme_is_named_and_accepts_nothing() -> None:
    with pytest.raises(UnknownName, match="unknown signature scheme 'md5'; known: hmac, sha256"):
        replace(PLAIN, scheme="md5").verify()


ANYTHING = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=80)


@BY_NAME
@given(data=st.data())
def test_whatever_is_forged_is_refused_and_nothing_breaks(signed: Signed, data: st.DataObject) -> None:
    """Any bytes that can stand in a header, of any length, in any of the scheme's headers."""
    headers = dict(signed.headers)
    proof = next(name for name in headers if "signature" in name or name == "authorization")
    right = headers[proof]
    headers[proof] = data.draw(
        ANYTHING
        | st.text("0123456789abcdef", min_size=60, max_size=68)
        | st.sampled_from(
            [right[:-1], right + "0", f"{right},", right[::-1], "v1,", "v0=", "sha256=", "Bearer é"]
        )
    )
    assume(headers[proof].strip().lower() != right.lower() and right not in headers[proof].split(" "))
    others = {name: data.draw(ANYTHING | st.just(value)) for name, value in headers.items() if name != proof}
    forged = replace(signed, headers={**others, proof: headers[proof]})
    assert code_of(forged.verify) in ("missing", "malformed", "stale", "wrong")


@given(secret=st.binary(min_size=24, max_size=64), raw=st.binary(max_size=500))
def test_what_we_sign_ourselves_is_accepted(secret: bytes, raw: bytes) -> None:
    digest = hmac.new(secret, b"msg_1.1000." + raw, hashlib.sha256).digest()
    text = f"whsec_{base64.b64encode(secret).decode()}"
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1000",
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
    assert verify("standard", headers, raw, [text], 1000.0) == "msg_1"
