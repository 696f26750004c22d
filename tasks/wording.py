"""How the engine calls for help: always the same four things, in words for the office."""


def escalation_text(*, what: str, why: str, machine: str, do: str) -> str:
    """Return a call for help: what happened, why, what the machine does next, what a person can do."""
    return f"{what}\nWhy: {why}\nNext, by itself: {machine}\nWhat you can do: {do}"
