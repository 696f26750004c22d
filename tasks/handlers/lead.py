"""Steps that read a mail which somebody has written to the firm: what it is about, and who wrote it.

All of it goes by rules. A mail that fits no rule, or two that exclude each other, is `unsure`: a
person decides.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from django.conf import settings
from pydantic import AfterValidator, BaseModel

from crm import phones
from tasks.calendars import parse_duration
from tasks.outcome import DataError, Done, Open, Outcome, StepRun, handler

Category = Literal["new_lead", "existing_customer", "complaint", "scheduling", "spam", "auto_reply", "unsure"]
LONGEST_READ = 20_000  # characters of a mail that are looked at

# What speaks for a category. A word stands for itself and for its beginning: "complain" is in "complained".
SIGNS: Mapping[str, tuple[str, ...]] = {
    "spam": (
        *("seo ", "search engine ranking", "backlink", "guest post", "rank your website", "page of google"),
        *("increase your traffic", "web design services", "mobile app development", "crypto", "bitcoin"),
        *("casino", "viagra", "lottery", "wire transfer", "business loan", "merchant cash", "email list"),
        *("outsource your", "make money", "click here", "limited time offer", "virtual assistant services"),
    ),
    "complaint": (
        *(
            "complain",
            "unhappy",
            "disappoint",
            "dissatisf",
            "not satisfied",
            "unacceptable",
            "not acceptable",
        ),
        *(
            "terrible",
            "awful",
            "horrible",
            "worst",
            "refund",
            "money back",
            "overcharged",
            "damage",
            "ruined",
        ),
        *("never showed", "did not show up", "didn't show up", "nobody came", "no one came", "poor job"),
        *("killed my", "burned my", "burnt my", "still waiting for", "lawyer", "better business bureau"),
    ),
    "existing_customer": (
        *("my invoice", "my bill", "your invoice", "invoice number", "my account", "already a customer"),
        *("current customer", "existing customer", "my contract", "my subscription", "update my address"),
        *("last visit", "your crew", "your team was", "renew my", "cancel my service"),
    ),
    "scheduling": (
        *("reschedule", "appointment", "schedule a", "when can you come", "when could you come"),
        *("what day", "move my visit", "time slot", "availability", "come by"),
    ),
    "new_lead": (
        *("quote", "estimate", "how much", "price", "pricing", "cost", "interested in", "looking for"),
        *("do you offer", "do you do", "would like to hire", "need someone", "sign up", "new customer"),
        *("your services", "can you help", "free consultation", "proposal"),
    ),
}
SERVICES: Mapping[str, tuple[str, ...]] = {
    "fertilizer": ("fertiliz", "fertilis", "feeding"),
    "weed_control": ("weed", "dandelion", "crabgrass", "creeping charlie"),
    "mowing": ("mow", "grass cut", "cut the grass", "cut my grass"),
    "snow_removal": ("snow", "plow", "shovel", "de-ic", "deic"),
    "aeration": ("aerat",),
    "lawn_care": ("lawn care", "lawn service", "yard work", "landscap", "my lawn", "my yard"),
}
AUTO_REPLY = (
    *("out of office", "automatic reply", "auto-reply", "autoreply", "undeliverable", "delivery status"),
    *("mail delivery failed", "returned mail", "vacation reply"),
)
MANY_LINKS = 4
NOBODY = re.compile(r"^(mailer-daemon|postmaster|no-?reply|do-?not-?reply|bounces?)\b", re.I)

_LINK = re.compile(r"https?://|www\.", re.I)
_QUOTED = re.compile(r"^\s*(>|-{2,}\s*original message|on .{5,80} wrote:\s*$)", re.I)
_NUMBER = re.compile(r"(?<![\w+])\+?\(?\d[\d\s().\-]{7,20}\d(?!\w)")
_WORD = r"[A-Z][\w'\u2019\-]*\.?"
_NAMED = re.compile(rf"\b(?:[Mm]y name is|[Tt]his is|I am|I'm)\s+({_WORD}(?:\s+{_WORD}){{1,2}})")
_GOODBYE = re.compile(
    r"^\s*(thanks|thank you|many thanks|best|best regards|kind regards|regards|sincerely|cheers)\b[^\w]*$",
    re.I,
)
_SIGNED = re.compile(rf"^\s*({_WORD}(?:\s+{_WORD}){{1,2}})\s*$")
_NO_NAMES = frozenset(
    {"Interested", "Looking", "Sure", "Happy", "Sorry", "Sent", "Writing", "Not", "A", "The"}
)


def _checked_duration(text: str | int) -> str | int:
    parse_duration(text)
    return text


class Read(BaseModel):
    """What a mail is about, and who wrote it.

    `name` is "" when nobody can tell it; `called` is what to call the sender in the CRM and never empty.
    `due` is when an answer is owed, on the business's own clock.
    """

    category: Open[Category]
    because: Open[list[str]]
    since: Open[str]
    due: Open[str]
    name: str
    called: str
    phone: str
    services: list[str]


@handler("lead.read", results=Read)
def read(
    step: StepRun,
    *,
    sender: str,
    sender_name: str = "",
    subject: str = "",
    text: str = "",
    phone: str = "",
    is_auto_reply: bool = False,
    signs: dict[str, list[str]] | None = None,
    services: dict[str, list[str]] | None = None,
    answer_within: Annotated[str | int, AfterValidator(_checked_duration)] = "24h",
) -> Outcome:
    """Tell by rules what a mail is about: new_lead, existing_customer, complaint, scheduling, spam or unsure.

    `signs` and `services` are the words that speak for a category or a service, in place of the usual
    ones for those that are named. `auto_reply` is a mail that a machine has sent.
    """
    body = _own_words(text)
    told = f"{subject}\n{body}"[:LONGEST_READ]
    wanted = _hits(told, {**SERVICES, **(services or {})})
    known = {**SIGNS, **_checked_signs(signs or {})}
    automatic = is_auto_reply or bool(_hits(subject, {"auto_reply": AUTO_REPLY}))
    category, because = _category(sender, told, known, bool(wanted), automatic)
    spoken = _name(sender_name, body)
    zone = ZoneInfo(settings.TIME_ZONE)
    due = step.now + timedelta(seconds=parse_duration(answer_within).total_seconds())
    return Done(
        values={
            "category": category,
            "because": because,
            "since": step.now.astimezone(zone).isoformat(timespec="seconds"),
            "due": due.astimezone(zone).isoformat(timespec="seconds"),
            "name": spoken,
            "called": spoken or _from_address(sender),
            "phone": phones.e164(phone.strip()) or _phone(told),
            "services": wanted,
        }
    )


def _checked_signs(signs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
    if unknown := sorted(set(signs) - set(SIGNS)):
        raise DataError(f"signs: there is no category {unknown[0]!r}; expected {', '.join(sorted(SIGNS))}")
    return signs


# -- what it is about ----------------------------------------------------------------------------


def _category(
    sender: str, told: str, signs: Mapping[str, Sequence[str]], wants_service: bool, is_auto_reply: bool
) -> tuple[Category, list[str]]:
    """Return the category and the names of the rules that spoke for it."""
    says_so = bool(_hits(told[:300], {"auto_reply": AUTO_REPLY}))
    if is_auto_reply or NOBODY.match(sender):
        return "auto_reply", ["auto_reply"]
    found = set(_hits(told, signs))
    if len(_LINK.findall(told)) >= MANY_LINKS:
        found.add("spam")
    if wants_service and not found - {"spam"}:
        found.add("new_lead")  # "Fertilizing, 55408?" asks for something without any of the words
    if says_so:  # "What does weed control cost? I am out of office until Monday." is from a person
        return ("unsure" if found - {"spam"} else "auto_reply"), sorted({*found, "auto_reply"})
    return _decided(found), sorted(found)


def _decided(found: set[str]) -> Category:
    """Return what the rules that spoke agree on; what they contradict each other on is unsure."""
    if found == {"spam"}:
        return "spam"
    if "spam" in found or ("complaint" in found and "new_lead" in found):
        return "unsure"  # "so unhappy with my present firm, what do you charge?" is no complaint about us
    for category in ("complaint", "existing_customer"):
        if category in found:
            return category
    if "new_lead" in found:
        return "new_lead"
    return "scheduling" if "scheduling" in found else "unsure"


def _hits(told: str, words: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the names of which at least one word stands in the text, at the beginning of a word."""
    flat = " ".join(told.casefold().split()) + " "
    return [
        name
        for name, several in words.items()
        if any(re.search(rf"(?<!\w){re.escape(word.casefold())}", flat) for word in several)
    ]


def _own_words(text: str) -> str:
    """Return what the sender wrote now: a quoted mail below it speaks for nobody."""
    kept: list[str] = []
    for line in text[:LONGEST_READ].splitlines():
        if _QUOTED.match(line) and not line.lstrip().startswith(">"):
            break
        if not line.lstrip().startswith(">"):
            kept.append(line)
    return "\n".join(kept)


# -- who wrote it --------------------------------------------------------------------------------


# We write to a name that anybody can choose, at once and unread: it must not carry what they want to say.
_NOT_A_NAME = re.compile(r"[@/\\:<>!?$%#\d]|\w\.\w{2}|.{61}")


def _name(given: str, body: str) -> str:
    """Return the sender's name: as the mail gives it, as they introduce themselves, or as they sign."""
    shown = " ".join(given.split()).strip("\"' ")
    if shown and shown.isprintable() and not _NOT_A_NAME.search(shown):
        first, comma, second = shown.partition(", ")
        return f"{second} {first}"[:120] if comma and second and " " not in first else shown[:120]
    return next(_names_in(body), "")[:120]


def _names_in(body: str) -> Iterator[str]:
    for found in _NAMED.finditer(body):
        if found[1].split()[0] not in _NO_NAMES:
            yield found[1].strip(" .")
    lines = [line for line in body.splitlines() if line.strip()]
    for goodbye, following in pairwise(lines):
        signed = _SIGNED.match(following)
        if _GOODBYE.match(goodbye) and signed:
            yield signed[1].strip(" .")


def _from_address(sender: str) -> str:
    """Return what an address tells of a name: "ada.lind@…" may be Ada Lind. A CRM wants some name."""
    local = sender.partition("@")[0].partition("+")[0]
    words = [word.capitalize() for word in re.split(r"[^A-Za-z'\u2019]+", local) if len(word) > 1]
    return " ".join(words) or sender or "Unknown sender"


def _phone(told: str) -> str:
    """Return the first text that is a whole phone number, in E.164, or ""."""
    for found in _NUMBER.finditer(told):
        if number := phones.e164(found[0].strip()):
            return number
    return ""
