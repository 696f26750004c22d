"""A SOP in the database: the rows of the draft that staff edit, and the versions that run."""

from django.contrib.auth.base_user import AbstractBaseUser
from django.db import transaction

from sopengine import clock
from tasks.definition.check import obstacles
from tasks.definition.records import DefinitionError, SopDef, StepDef, from_json, to_json
from tasks.models import Sop, SopVersion, Step


def from_rows(sop: Sop) -> SopDef:
    """Return the definition that a draft's rows make."""
    return SopDef(
        slug=sop.slug,
        name=sop.name,
        description=sop.description,
        channel=sop.channel,
        trigger=sop.trigger,
        inputs=sop.inputs,
        autonomous=sop.autonomous,
        priority=sop.priority,
        steps=tuple(_step_from_row(row) for row in sop.steps.order_by("position", "id")),
    )


def _step_from_row(row: Step) -> StepDef:
    return StepDef(
        key=row.key,
        handler=row.handler,
        name=row.name,
        params=row.params,
        on_success=row.on_success,
        on_failure=row.on_failure,
        max_retries=row.max_retries,
        timeout=row.timeout,
        rate=row.rate,
    )


@transaction.atomic
def save_rows(definition: SopDef) -> Sop:
    """Write a definition as the draft of its SOP; what is published, and its runs, stay as they are."""
    sop, _ = Sop.objects.update_or_create(
        slug=definition.slug,
        defaults={
            "name": definition.name,
            "description": definition.description,
            "channel": definition.channel,
            "trigger": definition.trigger,
            "inputs": definition.inputs,
            "autonomous": definition.autonomous,
            "priority": definition.priority,
        },
    )
    sop.steps.all().delete()
    Step.objects.bulk_create(
        Step(
            sop=sop,
            position=position,
            key=step.key,
            name=step.name,
            handler=step.handler,
            params=step.params,
            on_success=step.on_success,
            on_failure=step.on_failure,
            max_retries=step.max_retries,
            timeout=step.timeout,
            rate=step.rate,
        )
        for position, step in enumerate(definition.steps, start=1)
    )
    return sop


@transaction.atomic
def publish(sop: Sop, by: AbstractBaseUser | None = None) -> SopVersion:
    """Make the draft the version that new runs follow, or raise DefinitionError.

    The schedule counts from now on. A draft that says what is published already returns the
    present version; if the SOP was switched off, it is on again.
    """
    Sop.objects.select_for_update().get(pk=sop.pk)
    sop.refresh_from_db()
    definition = from_rows(sop)
    problems = obstacles(definition, sop.slug)
    if problems:
        raise DefinitionError(problems)
    present = sop.published
    same = present is not None and from_json(present.definition) == definition
    if present is None or not same:
        present = _new_version(sop, definition, by)
    elif sop.state == Sop.State.ACTIVE:
        return present
    sop.published, sop.state, sop.cursor = present, Sop.State.ACTIVE, clock.now()
    sop.save(update_fields=["published", "state", "cursor", "changed_at"])
    return present


def _new_version(sop: Sop, definition: SopDef, by: AbstractBaseUser | None) -> SopVersion:
    last = sop.versions.order_by("-number").values_list("number", flat=True).first() or 0
    version: SopVersion = SopVersion.objects.create(
        sop=sop,
        number=last + 1,
        definition=to_json(definition),
        published_at=clock.now(),
        published_by_id=by.pk if by else None,
    )
    return version


def disable(sop: Sop) -> None:
    """Let the SOP start nothing more; its runs go on to their end."""
    Sop.objects.filter(pk=sop.pk).update(state=Sop.State.DISABLED)
    sop.state = Sop.State.DISABLED
