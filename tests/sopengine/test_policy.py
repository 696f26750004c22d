"""What a browser may do with our pages, and whose request it is."""

import pytest
from django.test import Client, RequestFactory
from pytest_django import Settings

from sopengine.policy import client_address


@pytest.mark.django_db
def test_only_the_admin_may_evaluate(client: Client) -> None:
    own = client.get("/readyz").headers["Content-Security-Policy"]
    assert "default-src 'self'" in own
    assert "unsafe" not in own
    admin = client.get("/admin/login/").headers["Content-Security-Policy"]
    assert "script-src 'self' 'unsafe-eval'" in admin
    assert "frame-ancestors 'none'" in admin


@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [
        (0, "6.6.6.6", "10.0.0.1"),
        (1, "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        (1, "1.2.3.4", "1.2.3.4"),
        (1, "", "10.0.0.1"),
        (2, "6.6.6.6, 1.2.3.4, 10.9.9.9", "1.2.3.4"),
        (2, "1.2.3.4", "10.0.0.1"),
    ],
)
def test_an_address_is_what_our_own_proxy_saw(
    settings: Settings, proxies: int, forwarded: str, expected: str
) -> None:
    settings.PROXY_COUNT = proxies
    request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.1", headers={"x-forwarded-for": forwarded})
    assert client_address(request) == expected


@pytest.mark.django_db
def test_a_name_and_an_address_are_locked_after_five_wrong_passwords(
    client: Client, settings: Settings
) -> None:
    settings.PROXY_COUNT = 1
    wrong = {"username": "ana", "password": "wrong"}
    for _ in range(settings.AXES_FAILURE_LIMIT):
        answer = client.post("/admin/login/", wrong, headers={"x-forwarded-for": "1.2.3.4"})
    assert answer.status_code == 429
    spoofed = client.post("/admin/login/", wrong, headers={"x-forwarded-for": "9.9.9.9, 1.2.3.4"})
    assert spoofed.status_code == 429
    other = client.post("/admin/login/", wrong, headers={"x-forwarded-for": "5.5.5.5"})
    assert other.status_code == 200
