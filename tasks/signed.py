"""Links that let one person answer one question without a login, for mails and direct messages.

A link holds numbers only: the question, the person, the visit of its step; its signature cannot be
made without SECRET_KEY. What it opens is asked of the rows each time, so it ends with its question.
"""

from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.core import signing
from django.urls import reverse

from tasks.models import Approval

PAGE = "approval_page"
_SALT, _PAGE_SALT = "tasks.signed.link", "tasks.signed.page"


@dataclass(frozen=True, slots=True)
class Opened:
    """What a genuine link says."""

    approval: UUID
    user: int
    visit: int


def link(approval: Approval, user: AbstractUser) -> str:
    """Return the address at which this person, and nobody else, may answer this question."""
    path = reverse(PAGE, args=[token(approval, user)])
    return settings.PUBLIC_URL.rstrip("/") + path


def token(approval: Approval, user: AbstractUser) -> str:
    """Return what stands in the link."""
    return _signer(_SALT).sign_object([approval.pk.hex, user.pk, approval.visit])


def opened(text: str) -> Opened | None:
    """Return what the token says, None when it is not one of ours."""
    try:
        number, user, visit = _signer(_SALT).unsign_object(text)
        return Opened(UUID(str(number)), int(user), int(visit))
    except (signing.BadSignature, ValueError, TypeError):
        return None


def page_mark(text: str) -> str:
    """Return what the page of this token sends back with an answer: only who was shown it has it."""
    return _signer(_PAGE_SALT).signature(text)


def _signer(salt: str) -> signing.Signer:
    # Mail programs end a link at a colon or a full stop when a line ends there; our tokens never do.
    return signing.Signer(salt=salt, sep=".")
