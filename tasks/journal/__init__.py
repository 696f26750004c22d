"""The only raw SQL, and the only writer of tasks and their events: claim, settle, signal."""

from tasks.journal.claim import claim, claim_suspect, renew, reread
from tasks.journal.contacts import contact_marks, free_contacts, reserve_contact
from tasks.journal.facts import RESULTS, answers, children_of, gathered
from tasks.journal.settle import settle
from tasks.journal.sides import insert_tasks, tell_again
from tasks.journal.signals import (
    descendants,
    end_pause,
    families,
    held_count,
    open_children,
    orphans,
    parents_to_release,
    release_children,
    release_held,
    signal,
    stranded,
    wake_parents,
)
from tasks.journal.sql import Away, Refused, Row, database_now, patiently, sqlstate
from tasks.journal.upkeep import (
    beat_once,
    braked,
    due_count,
    expired_values,
    note_death,
    prune,
    prune_acknowledgements,
    reserve,
    scrub_failed,
    take,
)

__all__ = [
    "RESULTS",
    "Away",
    "Refused",
    "Row",
    "answers",
    "beat_once",
    "braked",
    "children_of",
    "claim",
    "claim_suspect",
    "contact_marks",
    "database_now",
    "descendants",
    "due_count",
    "end_pause",
    "expired_values",
    "families",
    "free_contacts",
    "gathered",
    "held_count",
    "insert_tasks",
    "note_death",
    "open_children",
    "orphans",
    "parents_to_release",
    "patiently",
    "prune",
    "prune_acknowledgements",
    "release_children",
    "release_held",
    "renew",
    "reread",
    "reserve",
    "reserve_contact",
    "scrub_failed",
    "settle",
    "signal",
    "sqlstate",
    "stranded",
    "take",
    "tell_again",
    "wake_parents",
]
