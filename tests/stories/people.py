"""The people of a story. Each goes by one word, by which the CRM, the mail and the questions know them."""

from typing import Any

from tests.stories.firm import Firm
from tests.stories.stage import Row


def customer(name: str) -> str:
    """Return somebody's id in the CRM."""
    return f"cus_{name.lower()}"


def address(name: str) -> str:
    """Return somebody's mail address."""
    return f"{name.lower()}@example.com"


def person(word: str, /, **fields: Any) -> Row:
    """Return somebody as a row of the CRM."""
    return {"id": customer(word), "name": f"{word} Berg", "email": address(word), **fields}


def drafts(firm: Firm) -> dict[str, Row]:
    """Return the drafts that wait, by whom they are for."""
    return {row["draft"]["to"].partition("@")[0].title(): row["draft"] for row in firm.questions()}


def answer(firm: Firm, choice: str, *names: str) -> None:
    """Answer the questions about these people at the command line."""
    asked = {row["draft"]["to"]: row["id"] for row in firm.questions()}
    for name in names:
        firm.desk.answer(asked[address(name)], choice)
    firm.rests()


def subjects(firm: Firm, name: str) -> list[str]:
    """Return the subjects of the mails that somebody has got."""
    return [str(mail["Subject"]) for mail in firm.mails(address(name))]


def noted(firm: Firm, name: str) -> list[str]:
    """Return the notes in somebody's file, without their references."""
    return [note.split(" [ref")[0] for note in firm.notes(customer(name))]
