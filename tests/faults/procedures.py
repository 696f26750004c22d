"""The procedures of the fault tests, as in their files."""

import itertools
from typing import Any

Sop = dict[str, Any]


def step(key: str, handler: str, **more: Any) -> Sop:
    """Return one step; `more` are keys of the file, `params` its `with`."""
    params = more.pop("params", None)
    return {"key": key, "handler": handler, **({"with": params} if params else {}), **more}


def sop(slug: str, *steps: Sop, **more: Any) -> Sop:
    """Return a procedure that a customer's mail address is given to."""
    inputs = {"customer_email": {"type": "string", "default": "nobody@example.test"}}
    name = slug.replace("-", " ").capitalize()
    return {"sop": slug, "name": name, "autonomous": True, "inputs": inputs, **more, "steps": list(steps)}


MAIL = step(
    "mail",
    "email.send",
    params={
        "message": {"to": "{{ customer_email }}", "subject": "Spring", "text": "The season begins."},
        "purpose": "service",
    },
)
FIVE = sop(
    "five-steps",
    step("begin", "probe.note"),
    step("write", "probe.write"),
    step("check", "probe.check"),
    MAIL,
    step("end", "probe.note"),
)
# For workers that are frozen, not killed: what is only looked up can be written again by one that was
# frozen between its look and its write, and the promise does not say otherwise.
KEYED = sop(
    "keyed-steps", step("begin", "probe.note"), step("write", "probe.write"), MAIL, step("end", "probe.note")
)
MAILS = sop("one-mail", MAIL)


_numbers = itertools.count(1)


def people(count: int) -> list[dict[str, str]]:
    """Return the inputs of `count` runs, each with an address that nobody else has."""
    return [{"customer_email": f"c{next(_numbers)}@example.test"} for _ in range(count)]
