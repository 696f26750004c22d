"""The table of the CRM lines: how each answers, shared by all processes."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class Health(models.Model):
    """How the line to one CRM stands. Only `crm.health` writes it, each change with one conditional UPDATE.

    `generation` rises with every change of `state`, and `told` follows it once staff know. A probe
    belongs to whoever has put its mark into `probe`, until `probe_until`.
    """

    class State(models.TextChoices):
        ANSWERS = "answers", _("Answers")
        SILENT = "silent", _("Does not answer")
        PAUSING = "pausing", _("Asked for a pause")
        REFUSED = "refused", _("Refuses our login")
        HELD = "held", _("Held by staff")

    service = models.SlugField(max_length=60, primary_key=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.ANSWERS)
    reason = models.CharField(max_length=60, blank=True, default="")
    since = models.DateTimeField(null=True, blank=True)
    until = models.DateTimeField(null=True, blank=True)
    generation = models.PositiveIntegerField(default=0)
    told = models.PositiveIntegerField(default=0)
    # How often it fell silent or a probe was in vain, until it answers for good; the waits double with it.
    tries = models.PositiveIntegerField(default=0)
    # The last five transport failures without a success between, newest first.
    failure_1 = models.DateTimeField(null=True, blank=True)
    failure_2 = models.DateTimeField(null=True, blank=True)
    failure_3 = models.DateTimeField(null=True, blank=True)
    failure_4 = models.DateTimeField(null=True, blank=True)
    failure_5 = models.DateTimeField(null=True, blank=True)
    # The keyed hash of the secret that was refused.
    fingerprint = models.CharField(max_length=128, blank=True, default="")
    probe = models.CharField(max_length=32, blank=True, default="")
    probe_until = models.DateTimeField(null=True, blank=True)
    # When the line last began to answer again: the slow start counts from here.
    ramp_at = models.DateTimeField(null=True, blank=True)
    by = models.CharField(max_length=150, blank=True, default="")
    note = models.CharField(max_length=200, blank=True, default="")
    rate_left = models.IntegerField(null=True, blank=True)
    last_ok_at = models.DateTimeField(null=True, blank=True)
    last_failed_at = models.DateTimeField(null=True, blank=True)
    last_code = models.CharField(max_length=60, blank=True, default="")

    class Meta:
        verbose_name = _("CRM connection")
        verbose_name_plural = _("CRM connection")
        ordering = ["service"]
        default_permissions = ("view",)
        permissions = [("hold_crm", _("Can hold and release the CRM"))]
        constraints = [
            models.CheckConstraint(
                name="health_state_is_known",
                condition=models.Q(state__in=["answers", "silent", "pausing", "refused", "held"]),
            ),
        ]

    def __str__(self) -> str:
        return self.service


class Newcomer(models.Model):
    """Somebody whom a run is entering into the CRM, or has lately. Only `crm.newcomers` writes it.

    `person` is a keyed hash of a mail address or a phone number. The turn belongs to whoever has put its
    mark into `mark`, until `until`; `entered_by` is the mark under which the CRM has taken the person.
    """

    person = models.CharField(max_length=64, primary_key=True)
    mark = models.CharField(max_length=32, blank=True, default="")
    until = models.DateTimeField(db_index=True)
    entered_by = models.CharField(max_length=32, blank=True, default="")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.person[:8]
