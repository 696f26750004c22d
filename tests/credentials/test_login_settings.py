"""What a start asks for when the CRM is logged in to with OAuth, and which header can carry a key."""

import pytest

from tests.sopengine.test_settings import live, refusal, shown

OAUTH = {
    "CRM_AUTH": "oauth",
    "CRM_OAUTH_AUTHORIZE_URL": "https://crm.example.com/authorize?access_type=offline",
    "CRM_OAUTH_TOKEN_URL": "https://crm.example.com/token/",
    "CRM_OAUTH_CLIENT_ID": "office",
}


def test_the_addresses_stay_as_they_were_given() -> None:
    names = ["CRM_OAUTH_AUTHORIZE_URL", "CRM_OAUTH_TOKEN_URL"]
    assert shown(live(**OAUTH), *names) == [OAUTH[name] for name in names]


@pytest.mark.parametrize("name", ["CRM_OAUTH_AUTHORIZE_URL", "CRM_OAUTH_TOKEN_URL", "CRM_OAUTH_CLIENT_ID"])
def test_what_a_login_needs_must_be_set(name: str) -> None:
    assert f"{name}: is not set; CRM_AUTH=oauth expected" in refusal(live(**OAUTH) | {name: ""})


def test_a_login_by_client_secret_needs_no_page_to_log_in() -> None:
    environment = live(**OAUTH, CRM_OAUTH_GRANT="client_credentials") | {"CRM_OAUTH_AUTHORIZE_URL": ""}
    assert shown(environment, "CRM_OAUTH_GRANT") == ["client_credentials"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CRM_OAUTH_TOKEN_URL", "http://crm.example.com/token"),
        ("CRM_OAUTH_AUTHORIZE_URL", "http://crm.example.com/authorize"),
        ("CRM_OAUTH_TOKEN_URL", "crm.example.com/token"),
        ("CRM_OAUTH_GRANT", "password"),
        ("CRM_API_KEY_HEADER", "X Api Key"),
        ("CRM_API_KEY_HEADER", "X-Api-Key:"),
        ("CRM_API_KEY_HEADER", "X-Api-Key: two words"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, value: str) -> None:
    said = refusal(live(**OAUTH) | {name: value})
    assert f"\n  {name}: " in said
    assert "expected" in said.partition(f"\n  {name}: ")[2].splitlines()[0]


@pytest.mark.parametrize("header", ["X-Api-Key", "Authorization: Bearer", "Authorization: Zoho-oauthtoken"])
def test_a_header_is_a_name_and_perhaps_a_word(header: str) -> None:
    assert shown(live(CRM_API_KEY_HEADER=header), "CRM_API_KEY_HEADER") == [header]
