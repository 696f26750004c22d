"""What must be so before a SOP may run, besides being well-formed: what law, texts and questions need."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group

from sopengine.errors import DataError
from tasks import templating
from tasks.definition import names
from tasks.definition import params as parameters
from tasks.definition.graph import Graph
from tasks.definition.records import StepDef
from tasks.definition.shape import Finding

MARKETING = "marketing"
LINK = "unsubscribe_url"
GROUP = "group:"
# What a text may say of the business only when the setting behind it is not empty.
NEEDED = {"review_link": "REVIEW_LINK"}
_WHOLE_NAME = re.compile(r"\{\{\s*([\w-]+)\s*\}\}")


def findings(graph: Graph) -> Iterator[Finding]:
    """Yield what keeps a well-formed SOP from being published."""
    for number, step in enumerate(graph.sop.steps):
        handler = graph.handlers.get(step.key)
        purpose = step.params.get("purpose")
        if handler and handler.sends and (purpose == MARKETING or templating.has_template(purpose)):
            yield from _marketing(graph, number, step)
    yield from _empty_settings(graph)
    yield from _strangers(graph)


def _marketing(graph: Graph, number: int, step: StepDef) -> Iterator[Finding]:
    """Marketing mail names the sender's postal address, and says how to get no more of it."""
    path = ("steps", number, "with", "purpose")
    if not settings.BUSINESS_ADDRESS.strip():
        yield Finding(path, "marketing mail must name the firm's postal address; set BUSINESS_ADDRESS first")
    draft = _drafted_by(graph, step)
    if draft is None:
        yield Finding(
            path,
            "marketing mail must say how to get no more of it: let a message.draft write it, "
            f"with {{{{ {LINK} }}}} in its text",
        )
        return
    for part in ("text", "html"):
        source = _sources(draft).get(part, "")
        if source.strip() and not any(use.path[0] == LINK for use in templating.uses(source)):
            yield Finding(
                ("steps", graph.number(draft.key), "with"),
                f"marketing mail must say how to get no more of it: put {{{{ {LINK} }}}} into its {part}",
            )


def _drafted_by(graph: Graph, step: StepDef) -> StepDef | None:
    """Return the step that wrote what this one sends: its message names it, or the question that shows it."""
    name = _named(step.params.get("message"))
    for _ in graph.sop.steps:
        handler = graph.handlers.get(name)
        if handler is None:
            return None
        line = graph.sop.step(name)
        if handler.drafts:
            return line
        name = _named(line.params.get("draft"))
    return None


def _named(value: Any) -> str:
    whole = _WHOLE_NAME.fullmatch(value.strip()) if isinstance(value, str) else None
    return whole[1] if whole else ""


def _sources(draft: StepDef) -> Mapping[str, str]:
    """Return the templates by part; none where the folder is named only at run."""
    folder = str(draft.params.get("template") or "")
    if not folder:
        return {part: str(draft.params.get(part) or "") for part in templating.PARTS}
    try:
        return {} if templating.has_template(folder) else templating.message_sources(folder)
    except DataError:
        return {}  # told by graph.messages


def _empty_settings(graph: Graph) -> Iterator[Finding]:
    told: set[str] = set()
    for number, step in enumerate(graph.sop.steps):
        for use in names.uses_of(("steps", number, "with"), step, graph.handlers.get(step.key)):
            if isinstance(use, Finding) or len(use.path) < 2 or use.path[0] != "business":
                continue
            setting = NEEDED.get(use.path[1], "")
            if setting and setting not in told and not getattr(settings, setting, ""):
                told.add(setting)
                yield Finding(use.where, f"the text names {use.spoken}, which is empty; set {setting} first")


def _strangers(graph: Graph) -> Iterator[Finding]:
    """A question to somebody who is not there would wait in vain; who is known only at run is let be."""
    named = [
        (("steps", number, "with", *path), name.strip())
        for number, step in enumerate(graph.sop.steps)
        if step.key in graph.handlers
        for path, name in parameters.people(graph.handlers[step.key], step.params)
        if not templating.has_template(name)
    ]
    if not named:
        return
    logins = set(get_user_model().objects.filter(is_active=True).values_list("username", flat=True))
    groups = set(Group.objects.values_list("name", flat=True))
    for path, name in named:
        bare, grouped = name.removeprefix(GROUP), name.startswith(GROUP)
        known = groups if grouped else logins
        if bare not in known:
            near = get_close_matches(bare, sorted(known), n=1)
            meant = f" did you mean {(GROUP if grouped else '') + near[0]!r}?" if near else ""
            yield Finding(
                path,
                f"there is no {'group' if grouped else 'active login'} {bare!r};{meant} "
                f"expected a login, or {GROUP}<name>, that exists",
            )
