"""Laws of the keys for the API: shown once, kept as a digest, out of force for ever once revoked."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import time_machine
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from sopengine import clock
from tasks import api_keys
from tasks.models import ApiKey
from tests.tasks.office import person, seen

pytestmark = pytest.mark.django_db
SCOPES = ["runs:read", "runs:start"]


@pytest.fixture
def shop() -> User:
    """The user in whose name a key acts."""
    return User.objects.create_user("shop")


def fresh(key: ApiKey) -> ApiKey:
    return ApiKey.objects.get(pk=key.pk)


# -- the key ---------------------------------------------------------------------------------------


def test_a_key_opens_for_its_user_and_is_kept_nowhere(shop: User) -> None:
    key, shown = api_keys.make("web shop", shop, SCOPES)
    found = api_keys.holder(shown)
    assert found == key
    assert found.user == shop
    assert found.scopes == sorted(SCOPES)
    secret = shown.split("_", 2)[2]
    assert secret not in json.dumps(list(ApiKey.objects.values()), default=str)
    assert len(secret) >= 43


def test_no_two_keys_are_alike(shop: User) -> None:
    shown = {api_keys.make(f"key {number}", shop, SCOPES)[1] for number in range(5)}
    assert len({key.split("_", 2)[1] for key in shown} | {key.split("_", 2)[2] for key in shown}) == 10


@pytest.mark.parametrize(
    "change",
    [
        lambda shown: shown[:-1],
        lambda shown: shown + "A",
        lambda shown: shown[:-1] + ("A" if shown[-1] != "A" else "B"),
        lambda shown: "sop_00000000_" + shown.split("_", 2)[2],
        lambda shown: shown.replace("sop_", "", 1),
        lambda shown: shown + "\n",
        lambda shown: "",
        lambda shown: "é" * 56,
    ],
)
def test_nothing_else_opens(shop: User, change: Any) -> None:
    shown = api_keys.make("web shop", shop, SCOPES)[1]
    assert api_keys.holder(change(shown)) is None


def test_a_revoked_key_does_not_open_and_is_revoked_once(shop: User) -> None:
    key, shown = api_keys.make("web shop", shop, SCOPES)
    assert api_keys.revoke(key)
    assert api_keys.holder(shown) is None
    assert not api_keys.revoke(key)


def test_the_key_of_somebody_who_left_does_not_open(shop: User) -> None:
    shown = api_keys.make("web shop", shop, SCOPES)[1]
    User.objects.filter(pk=shop.pk).update(is_active=False)
    assert api_keys.holder(shown) is None


def test_its_last_use_is_noted_once_a_minute(shop: User) -> None:
    key, shown = api_keys.make("web shop", shop, SCOPES)
    assert key.last_used_at is None
    begins = clock.now()
    noted = []
    for seconds in (0, 30, 61):
        with time_machine.travel(begins + timedelta(seconds=seconds), tick=False):
            api_keys.holder(shown)
        noted.append(fresh(key).last_used_at)
    assert noted[0] == noted[1] == begins
    assert noted[2] == begins + timedelta(seconds=61)


@pytest.mark.parametrize(
    ("name", "scopes", "why"),
    [
        ("", SCOPES, "needs a name"),
        ("two\nlines", SCOPES, "needs a name"),
        ("x" * 81, SCOPES, "at most 80"),
        ("ok", [], "needs a scope; there are: runs:start"),
        ("ok", ["runs:all"], "no scope 'runs:all'; there are: runs:start"),
        ("taken", SCOPES, "“taken” already"),
    ],
)
def test_a_key_that_cannot_be_made_says_why(shop: User, name: str, scopes: list[str], why: str) -> None:
    api_keys.make("taken", shop, SCOPES)
    with pytest.raises(api_keys.KeyRefused, match=why):
        api_keys.make(name, shop, scopes)
    assert ApiKey.objects.count() == 1


def test_nobody_who_left_gets_a_key(shop: User) -> None:
    shop.is_active = False
    with pytest.raises(api_keys.KeyRefused, match="not active"):
        api_keys.make("web shop", shop, SCOPES)


def test_every_scope_asks_for_a_permission_that_exists() -> None:
    asked = {name for scope in api_keys.SCOPES.values() for name in scope.permissions}
    there = {
        f"{app}.{code}" for app, code in Permission.objects.values_list("content_type__app_label", "codename")
    }
    assert asked <= there
    assert all(scope.permissions for scope in api_keys.SCOPES.values())


# -- the command -----------------------------------------------------------------------------------


def said(*arguments: str) -> str:
    out = StringIO()
    call_command("apikey", *arguments, stdout=out)
    return out.getvalue()


def complaint(*arguments: str) -> str:
    with pytest.raises(CommandError) as caught:
        call_command("apikey", *arguments, stdout=StringIO())
    return str(caught.value)


def test_the_command_prints_a_new_key_once(shop: User) -> None:
    shown = said("create", "web shop", "--user", "shop", "--scope", "runs:read").splitlines()[0]
    key = api_keys.holder(shown)
    assert key is not None
    assert (key.name, key.scopes) == ("web shop", ["runs:read"])
    listed = said("list") + said("list", "--json")
    assert key.prefix in listed
    assert shown.split("_", 2)[2] not in listed
    assert key.digest not in listed


def test_the_command_lists_and_revokes(shop: User) -> None:
    assert "There is no key" in said("list")
    told = json.loads(said("create", "web shop", "--user", "shop", "--scope", "runs:read", "--json"))
    assert api_keys.holder(told["key"])
    said("revoke", "web shop")
    assert api_keys.holder(told["key"]) is None
    (row,) = json.loads(said("list", "--json"))
    assert row["revoked_at"]
    assert "revoked before" in complaint("revoke", told["prefix"])


def test_the_command_says_what_is_wrong(shop: User) -> None:
    assert "no user 'nobody'" in complaint("create", "x", "--user", "nobody", "--scope", "runs:read")
    assert "invalid choice: 'all'" in complaint("create", "x", "--user", "shop", "--scope", "all")
    assert "no key 'x'" in complaint("revoke", "x")
    said("create", "x", "--user", "shop", "--scope", "runs:read")
    assert "“x” already" in complaint("create", "x", "--user", "shop", "--scope", "runs:read")


# -- the admin -------------------------------------------------------------------------------------

ADD = "admin:tasks_apikey_add"


def test_the_admin_shows_a_new_key_on_one_page_only(admin_client: Client, shop: User) -> None:
    seen(admin_client.get(reverse(ADD)))
    response = admin_client.post(
        reverse(ADD), {"name": "web shop", "user": shop.pk, "scopes": ["runs:read", "runs:start"]}
    )
    page = seen(response)
    shown = page.partition("<code>")[2].partition("</code>")[0]
    key = api_keys.holder(shown)
    assert key is not None
    assert (key.user, key.scopes) == (shop, sorted(SCOPES))
    assert "no-store" in response["Cache-Control"]
    secret = shown.split("_", 2)[2]
    for address in (
        reverse("admin:tasks_apikey_changelist"),
        reverse("admin:tasks_apikey_change", args=[key.pk]),
        reverse("admin:tasks_apikey_history", args=[key.pk]),
    ):
        other = seen(admin_client.get(address))
        assert "web shop" in other
        assert secret not in other
        assert key.digest not in other


def test_the_admin_refuses_a_name_twice(admin_client: Client, shop: User) -> None:
    api_keys.make("web shop", shop, SCOPES)
    page = seen(
        admin_client.post(reverse(ADD), {"name": "web shop", "user": shop.pk, "scopes": ["runs:read"]})
    )
    assert "“web shop” already" in page
    assert ApiKey.objects.count() == 1


def test_the_admin_revokes_and_never_deletes(admin_client: Client, shop: User) -> None:
    key, shown = api_keys.make("web shop", shop, SCOPES)
    admin_client.post(
        reverse("admin:tasks_apikey_changelist"), {"action": "revoke", "_selected_action": [key.pk]}
    )
    assert api_keys.holder(shown) is None
    assert admin_client.post(reverse("admin:tasks_apikey_delete", args=[key.pk])).status_code == 403
    assert fresh(key).revoked_at is not None


def test_who_is_no_superuser_makes_keys_only_for_himself(shop: User) -> None:
    """A key is its user: with one of a colleague anybody could answer in the colleague's name."""
    boss = User.objects.create_superuser("boss")
    ana = person("ana", "add_apikey", "view_apikey")
    for other in (boss, shop):
        ana.post(reverse(ADD), {"name": "mine", "user": other.pk, "scopes": ["runs:read"]})
    assert not ApiKey.objects.exists()
    own = User.objects.get(username="ana")
    ana.post(reverse(ADD), {"name": "mine", "user": own.pk, "scopes": ["runs:read"]})
    assert ApiKey.objects.get().user == own


def test_who_may_only_look_makes_no_key(shop: User) -> None:
    ben = person("ben", "view_apikey")
    seen(ben.get(reverse("admin:tasks_apikey_changelist")))
    assert ben.get(reverse(ADD)).status_code == 403
    own = User.objects.get(username="ben")
    answer = ben.post(reverse(ADD), {"name": "mine", "user": own.pk, "scopes": ["runs:read"]})
    assert answer.status_code == 403
    assert not ApiKey.objects.exists()
