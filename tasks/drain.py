"""The drain: claim what is due, let handlers talk to the world side by side, settle in groups.

One thread, the caller's, owns the database and every turn. Handlers that call somebody run in the
crew's threads and come back as finished jobs. Nothing is held open while somebody else is waited
for: a claim commits, handlers talk, a settle commits.
"""

import logging
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar, cast
from uuid import UUID, uuid4

from django.conf import settings
from django.db import DatabaseError

from credentials import vault
from crm import breaker, health
from crm.service import open_service
from sopengine import clock
from sopengine.crashpoint import crashpoint
from sopengine.errors import DataError, StepError, Transient
from sopengine.registry import UnknownName
from tasks import (
    calendars,
    children,
    crm_line,
    days_off,
    journal,
    outbox,
    perform,
    plan,
    sending,
    transition,
    turns,
    wakeups,
)
from tasks import context as values
from tasks.crew import Crew, Job, StepDeadline
from tasks.outcome import Branch, Done, Effect, handlers
from tasks.transition import Rules, Turn

T = TypeVar("T")
log = logging.getLogger(__name__)
MARKED = frozenset({Effect.VERIFY_FIRST, Effect.AT_MOST_ONCE})
MOST_DEATHS = 20  # of workers, without one step done in between
DRY_SECONDS = 0.1  # between looks for new work while steps are under way
FAIR_EVERY = 4  # each fourth claim goes by age alone, so that no priority starves


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What one drain did; `more` says that due work was left, `abandoned` counts stuck threads."""

    steps: int
    tasks: int
    more: bool
    abandoned: int


@dataclass(slots=True)
class Ready:
    """A turn whose next step can be handed over."""

    turn: Turn
    call: plan.Call
    marked: bool = False  # the start mark was set for this very hand-over


def _may_have_left(reply: perform.Reply) -> bool:
    """Return whether a step that writes to a customer may have done so."""
    if isinstance(reply.outcome, StepError):
        return reply.outcome.sent == "maybe"
    return isinstance(reply.outcome, Done)


def never() -> bool:
    """Nobody asks this drain to stop."""
    return False


class Drain:
    """One slice of work of one process."""

    def __init__(
        self,
        stop: Callable[[], bool] = never,
        seconds: float | None = None,
        steps: int | None = None,
    ) -> None:
        self.owner = uuid4()
        self.stop = stop
        self.ends = clock.monotonic() + (settings.ENGINE_SLICE if seconds is None else seconds)
        self.budget = settings.ENGINE_SLICE_STEPS if steps is None else steps
        self.lease = settings.ENGINE_LEASE
        self.crew: Crew[Ready] = Crew(settings.ENGINE_THREADS)
        self.held: dict[UUID, Turn] = {}
        self.to_settle: list[Turn] = []
        self.to_start: list[Ready] = []
        self.waiting: deque[Ready] = deque()
        self.parents: set[UUID] = set()
        self.listed: set[UUID] = set()
        self.steps = self.tasks = self.claims = 0
        self.renewed = clock.monotonic()
        self.dry_until = 0.0  # the last claim found nothing; look again a little later
        self.alone: UUID | None = None
        self._window: list[float | None] = []

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> DrainReport:
        """Work until nothing is due or the slice is over; give back what was not begun."""
        if journal.braked():
            return DrainReport(0, 0, False, 0)
        self._insist(days_off.read)
        try:
            while True:
                self._collect()
                self._settle()
                self._hand_over()
                self._renew()
                if self.held:
                    if self._over():
                        self._give_back()
                    elif not self.alone:
                        self._claim()
                elif self._over() or not (self._claim() or self._tell_families()):
                    break
        finally:
            self.crew.dismiss()
        return self._close()

    def _over(self) -> bool:
        return self.stop() or self.steps >= self.budget or clock.monotonic() >= self.ends

    def _claim(self) -> bool:
        """Take more tasks when the crew could use them; one that a worker died with comes alone."""
        enough = len(self.waiting) >= self.crew.size or self.to_settle or self.to_start
        if self.held and (enough or clock.monotonic() < self.dry_until):
            return False
        rows = []
        if not self.held:
            rows = journal.claim_suspect(self.owner, self.lease)
            self.alone = rows[0]["id"] if rows else None
            self._mind_deaths(rows)
        if not rows:
            self.claims += 1
            fair = self.claims % FAIR_EVERY == 0
            try:
                rows = journal.claim(self.owner, settings.ENGINE_BATCH, self.lease, fair=fair)
            except journal.Away as error:
                if not self.held:
                    raise
                log.warning("nothing more was taken: the database is away (%s)", type(error).__name__)
        self.dry_until = 0.0 if rows else clock.monotonic() + DRY_SECONDS
        crashpoint("m1")
        claimed = self._insist(lambda: [turns.turn_of(row) for row in rows])
        facts = self._insist(lambda: turns.facts_for(claimed))
        self.held.update((turn.id, turn) for turn in claimed)
        for turn in claimed:
            self._wake(turn, facts)
        return bool(rows)

    def _insist(self, read: Callable[[], T]) -> T:
        """Read, however long the database is away, as long as what is held is ours."""
        return journal.patiently(read, patience=self.lease)

    def _mind_deaths(self, rows: list[journal.Row]) -> None:
        """When workers die again and again and no step is done, it is the host, not the task."""
        if rows and journal.note_death(MOST_DEATHS, settings.ENGINE_BRAKE):
            text = "Workers stop again and again and no step gets done. The engine rests for a while."
            outbox.post(
                text, severity="critical", kind="escalation", dedupe=f"brake:{rows[0]['now']:%Y-%m-%dT%H}"
            )

    def _wake(self, turn: Turn, facts: turns.Known) -> None:
        try:
            if turn.crashes > transition.MOST_CRASHES:
                transition.quarantine(turn)
            else:
                transition.take_mail(turn, facts.of(turn))
        except vault.VaultError as error:
            transition.park(turn, "vault", str(error))
        except Exception as error:
            self._contain(turn, error)
            return
        self._advance(turn)

    def _advance(self, turn: Turn, ready: Ready | None = None, reply: perform.Reply | None = None) -> None:
        """Take a reply and go on with its turn; what nobody foresaw stops this run and no other."""
        try:
            if ready and reply:
                self._apply(ready, reply)
            self._go_on(turn)
        except journal.Away:
            raise
        except Exception as error:
            self._contain(turn, error)

    def _contain(self, turn: Turn, error: Exception) -> None:
        """A bug in what was made of this turn: it begins anew from its row, and the others go on."""
        log.error("task %s: %s in %s", turn.id, type(error).__name__, perform.place_of(error))
        bug = DataError("the engine could not go on with this run", code="bug", sent="maybe")
        if self._begin_anew(turn, bug):
            self.to_settle.append(turn)
        else:
            self._let_go(turn)

    def _begin_anew(self, turn: Turn, error: DataError) -> bool:
        """Take the row as it stands, drop what was made of it in memory, and record the error instead."""
        rows = self._insist(lambda: journal.reread([turn.id], self.owner))
        if not rows:
            return False
        fresh = turns.turn_of(rows[0])
        fresh.taken = len(fresh.mailbox) if turn.taken else 0
        handler = handlers.get(fresh.definition.handler)
        transition.take_error(fresh, handler, plan.weaker(fresh, handler, self._key_window), error, Rules())
        turn.become(fresh)
        return True

    def _go_on(self, turn: Turn) -> None:
        """Run the steps that need nobody, up to one that must be handed over, or to a rest."""
        while turn.running and not turn.children:  # children are written before anything goes on
            fresh = "since" not in turn.progress
            plan.since(turn)
            try:
                call = self._call(turn)
            except UnknownName as error:
                transition.park(
                    turn, "handler_missing", str(error), alike=f"missing:{turn.version}:{turn.step}"
                )
                break
            except StepError as error:
                self._failed(turn, error)
                continue
            if turn.started and call.effect is Effect.AT_MOST_ONCE:
                transition.put_before_person(turn, "worker_lost")
                break
            if call.plan.handler.crm and (held := crm_line.held(started=turn.started)):
                self._failed(turn, held)
                break
            try:
                cleared = self._cleared(turn, call)
            except StepError as error:
                self._failed(turn, error)
                continue
            if cleared is None or self._must_pace(turn, cleared.plan):
                break
            call = cleared
            # A repeat under the same key must say the same: what the first try saw is kept before it.
            if call.effect in MARKED or (call.effect is Effect.IDEMPOTENT and (turn.events or fresh)):
                self.to_start.append(Ready(turn, call))
                return
            if call.plan.handler.calls:
                self.waiting.append(Ready(turn, call))
                return
            self._apply(
                Ready(turn, call), perform.run_handler(turn, call, StepDeadline(settings.ENGINE_DEADLINE))
            )
        self.to_settle.append(turn)

    def _call(self, turn: Turn) -> plan.Call:
        if turn.progress.get("reread"):
            return plan.reread_call(turn)
        try:
            return plan.call_of(turn, plan.plan_of(turn), self._key_window)
        except vault.VaultError as error:
            raise DataError(str(error), code="vault") from None

    def _key_window(self) -> float | None:
        """For how many hours the CRM keeps a key; asked once per drain."""
        if not self._window:
            self._window.append(open_service().idempotency)
        return self._window[0]

    def _cleared(self, turn: Turn, call: plan.Call) -> plan.Call | None:
        """Return the call with what is known of the person it writes to; None when it must not leave now."""
        if not call.plan.handler.contacts and (turn.started or not sending.is_rationed(call)):
            return call
        if turn.frees:  # or its own earlier try would be in its way
            journal.free_contacts(*turn.frees)
            turn.frees = None
        try:
            if call.plan.handler.contacts:
                return replace(call, contact=self._insist(lambda: sending.contact_of(turn)))
            verdict = self._insist(lambda: sending.verdict(turn, call))
        except vault.VaultError as error:
            raise DataError(str(error), code="vault") from None
        if isinstance(verdict, sending.Cleared):
            return replace(call, contact=verdict.contact, reserved=verdict.reserved)
        if isinstance(verdict, sending.Later):
            transition.move(turn, verdict.until, verdict.why)
        elif isinstance(verdict, sending.Again):
            transition.look_again(turn, verdict.step)
        else:
            transition.take_outcome(
                turn, call.plan.handler, Branch(verdict.to, result=verdict.result, why=verdict.why)
            )
        return None

    def _must_pace(self, turn: Turn, made: plan.Plan) -> bool:
        """Give a step with a rate limit its slot; a run whose slot is not now waits for it."""
        if not made.step.rate or turn.progress.pop("paced", False):
            return False
        name, spacing = f"{turn.sop.slug}:{turn.step}", calendars.parse_rate(made.step.rate)
        delay = self._insist(lambda: journal.reserve(name, spacing))
        if delay <= 0:
            return False
        turn.progress["paced"] = True
        turn.rest("ready", delay=delay)
        turn.note("paced", wait=round(delay, 3))
        return True

    # -- handlers ------------------------------------------------------------------------------

    def _hand_over(self) -> None:
        """Give waiting calls to free threads; one SOP takes at most half while others wait."""
        working = Counter(job.subject.turn.sop.slug for job in self.crew.working)
        skipped: list[Ready] = []
        while self.waiting and self.crew.free and not self._over():
            ready = self.waiting.popleft()
            slug = ready.turn.sop.slug
            if working[slug] >= self.crew.size // 2 and any(r.turn.sop.slug != slug for r in self.waiting):
                skipped.append(ready)
                continue
            working[slug] += 1
            deadline = StepDeadline(
                min(ready.call.plan.step.timeout or settings.ENGINE_DEADLINE, settings.ENGINE_DEADLINE)
            )
            self.crew.begin(
                Job(ready, partial(perform.run_handler, ready.turn, ready.call, deadline), deadline)
            )
        self.waiting.extendleft(reversed(skipped))

    def _collect(self) -> None:
        """Take what the crew has finished; wait for it when there is nothing else to do."""
        busy = bool(self.to_settle or self.to_start or (self.waiting and self.crew.free))
        idle = bool(self.crew.working) and not busy
        done = [(job, cast(perform.Reply, job.answer)) for job in self.crew.finished(0.05 if idle else 0)]
        for _, reply in done:  # what they met is known before anybody else is sent there
            _note(reply)
        for job, reply in done:
            ready = job.subject
            if job.abandoned:
                self._late(ready, reply)
                continue
            crashpoint("m2")
            self._advance(ready.turn, ready, reply)
            self._hand_over()  # at once: its thread waits neither for the others' answers nor for the disk
        for job in self.crew.overdue():
            late = Transient("the step took longer than it may", code="deadline", sent="maybe")
            self._advance(job.subject.turn, job.subject, perform.Reply(late, (), 0))

    def _apply(self, ready: Ready, reply: perform.Reply) -> None:
        """Make what the handler answered part of its turn."""
        turn, handler = ready.turn, ready.call.plan.handler
        self.steps += 1
        if ready.call.reserved and not _may_have_left(reply):
            turn.frees = ready.call.reserved
        for call in reply.calls:
            turn.note("crm_called", **perform.told(call))
        if reply.found or any(call.status == "replayed" for call in reply.calls):
            turn.note("found")
        before = turn.seq
        try:
            if isinstance(reply.outcome, StepError):
                raise reply.outcome
            if handler is plan.REREAD and isinstance(reply.outcome, Done):
                transition.take_customer(turn, reply.outcome)
                return
            rows = self._insist(lambda: children.asked_for(turn, reply.outcome))
            transition.take_outcome(turn, handler, reply.outcome, reply.ms if handler.calls else None)
            turn.child_rows.extend(rows)
        except vault.VaultError as error:
            self._failed(turn, DataError(str(error), code="vault", sent="maybe"), ready.call.effect)
        except StepError as error:
            if turn.seq != before:
                raise AssertionError("an outcome failed after its event was noted") from error
            if error is not reply.outcome:
                error.sent = "maybe"  # the handler has done its work; only its answer cannot be kept
            self._failed(turn, error, ready.call.effect)

    def _failed(self, turn: Turn, error: StepError, effect: Effect = Effect.NONE) -> None:
        handler = handlers.get(turn.definition.handler)
        pause = None
        if transition.other_side(handler, error) == crm_line.SERVICE:
            pause = self._insist(lambda: crm_line.turn_after_pause(error))
        silent = error.origin == crm_line.SERVICE and breaker.is_transport(error.reason)
        if silent and transition.used_up(turn, error):
            health.used_up(crm_line.SERVICE, error.reason)
        rules = Rules(settings.ENGINE_RETRY_WAITS, random.random(), pause)  # noqa: S311
        transition.take_error(turn, handler, effect, error, rules)

    def _late(self, ready: Ready, reply: perform.Reply) -> None:
        """An answer after its deadline counts if nobody has moved the row since it was given up."""
        turn = ready.turn
        undecided = turn.reason == transition.UNKNOWN and turn.id not in self.held
        if undecided and not isinstance(reply.outcome, StepError):
            transition.answer_came_late(turn)
            self.held[turn.id] = turn
            try:
                self._apply(ready, reply)
            except Exception as error:
                self._contain(turn, error)
                return
            if turn.running:
                turn.rest("ready", delay=0.0)
            self.to_settle.append(turn)

    # -- settle --------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Write the turns that have come to rest, and the start marks of those about to begin."""
        if self._over():
            for ready in self.to_start:
                self._return(ready.turn)
            self.to_start = []
        rested, starts = self.to_settle, self.to_start
        if not rested and not starts:
            return
        self.to_settle, self.to_start = [], []
        marked = frozenset(ready.turn.id for ready in starts if ready.call.effect in MARKED)
        for ready in starts:
            if ready.turn.id in marked:
                self._mark(ready)
        group = rested + [ready.turn for ready in starts]
        for turn in group:
            turns.prepare_posts(turn)
        kept = self._write(group, marked)
        crashpoint("m5")
        self._follow_up(rested, kept)
        for ready in starts:
            if ready.turn.id in kept and ready.turn.running:
                ready.marked = ready.turn.id in marked and not ready.turn.started
                ready.turn.started = ready.turn.started or ready.marked
                self.waiting.append(ready)
            else:
                self._let_go(ready.turn)
        for turn in rested:
            if turn.id in kept and turn.running:
                self._advance(turn)
            else:
                self._let_go(turn)

    def _mark(self, ready: Ready) -> None:
        """Note the start; its request is kept for a repeat."""
        turn = ready.turn
        if not turn.request:
            turn.request = vault.seal(
                dict(ready.call.rendered), table=values.TABLE, row=str(turn.id), field="request"
            )
        turn.note("started")

    def _write(self, group: list[Turn], marked: frozenset[UUID]) -> set[UUID]:
        """Settle the group; when the database refuses it, settle row by row and fail the bad one."""
        try:
            return journal.settle(group, self.owner, self.lease, starting=marked)
        except journal.Refused as error:
            if len(group) > 1:
                return set().union(*(self._write([turn], marked) for turn in group))
            return self._refused(group[0], error)

    def _refused(self, turn: Turn, error: DatabaseError) -> set[UUID]:
        """The database does not take this result: it becomes a data error of its task."""
        state = journal.sqlstate(error)
        log.warning("task %s: the database refused its result (%s)", turn.id, state)
        refusal = DataError(f"the database refused the result ({state})", code="refused", sent="maybe")
        if not self._begin_anew(turn, refusal):
            return set()
        turns.prepare_posts(turn)
        return journal.settle([turn], self.owner, self.lease)

    def _follow_up(self, rested: Iterable[Turn], kept: set[UUID]) -> None:
        """Remember whose children or parents must hear of it."""
        for turn in rested:
            if turn.id not in kept:
                log.warning("task %s: fenced, somebody else has it", turn.id)
            elif turn.status in ("completed", "failed", "cancelled"):
                self.tasks += 1
                if turn.parent:
                    self.parents.add(turn.parent)
            elif turn.progress.get("listed"):
                self.listed.add(turn.id)

    def _let_go(self, turn: Turn) -> None:
        self.held.pop(turn.id, None)
        if turn.id == self.alone:
            self.alone = None

    def _renew(self) -> None:
        """Prolong every lease that is held, each quarter of its time."""
        if clock.monotonic() - self.renewed < self.lease / 4 or not self.held:
            return
        self.renewed = clock.monotonic()
        try:
            ours = journal.renew(self.owner, list(self.held), self.lease)
        except journal.Away as error:
            log.warning("leases not renewed: the database is away (%s)", type(error).__name__)
            return
        for job in self.crew.working:
            job.deadline.lost = job.subject.turn.id not in ours

    def _give_back(self) -> None:
        """What was not handed over goes back, ready and due, and no crash is counted."""
        while self.waiting:
            ready = self.waiting.popleft()
            if ready.marked:
                ready.turn.clear_attempt()  # the mark was set, the hand-over never happened
            self._return(ready.turn)

    def _return(self, turn: Turn) -> None:
        turn.rest("ready", delay=0.0)
        turn.note("handed_back", why="stopping")
        self.to_settle.append(turn)

    def _tell_families(self) -> bool:
        """Release the children of finished listings, wake parents that wait for none; was there one?"""
        listed, parents = self.listed, self.parents
        self.listed, self.parents = set(), set()
        told = sum(journal.release_children(parent) for parent in listed)
        return bool(told + (journal.wake_parents(parents) if parents else 0))

    def _close(self) -> DrainReport:
        """Post what staff should read, and ask for more hands if work is left."""
        self._tell_families()
        outbox.pump()
        more = journal.due_count(1) > 0
        if more:
            wakeups.wake()
        return DrainReport(self.steps, self.tasks, more, len(self.crew.abandoned))


def _note(reply: perform.Reply) -> None:
    """Note how the CRM answered; a bug in that is no reason to lose the answer."""
    try:
        reply.notes.write()
    except Exception as error:
        log.error(
            "an answer of the CRM was not noted: %s in %s", type(error).__name__, perform.place_of(error)
        )
