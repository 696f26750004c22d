"""The tables of the engine. Rules that must always hold stand in the database, not in a save()."""

import uuid
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from credentials.vault import register_sealed


class Sop(models.Model):
    """A procedure of the firm: the draft that staff edit, and the version that runs."""

    class State(models.TextChoices):
        DRAFT = "draft", _("Draft")
        ACTIVE = "active", _("Active")
        DISABLED = "disabled", _("Disabled")

    slug = models.SlugField(unique=True, max_length=80)
    name = models.CharField(max_length=120)
    description = models.TextField(blank=True)
    channel = models.CharField(max_length=80, blank=True, help_text=_("Chat channel, such as #marketing"))
    state = models.CharField(max_length=10, choices=State.choices, default=State.DRAFT)
    trigger = models.JSONField(default=dict, blank=True)
    inputs = models.JSONField(default=dict, blank=True)
    autonomous = models.BooleanField(
        default=False, help_text=_("May write to customers without asking a person first")
    )
    priority = models.PositiveSmallIntegerField(default=1, help_text=_("0 first, 1 normal, 2 last"))
    published = models.ForeignKey(
        "SopVersion", null=True, blank=True, on_delete=models.PROTECT, related_name="+", editable=False
    )
    cursor = models.DateTimeField(
        null=True, blank=True, editable=False, help_text=_("Slots up to here have been dealt with")
    )
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = _("SOP")
        verbose_name_plural = _("SOPs")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Step(models.Model):
    """One line of a SOP's draft."""

    sop = models.ForeignKey(Sop, on_delete=models.CASCADE, related_name="steps")
    position = models.PositiveIntegerField()
    key = models.SlugField(max_length=60, help_text=_("How other steps call this one"))
    name = models.CharField(max_length=120, blank=True)
    handler = models.CharField(max_length=60)
    params = models.JSONField(default=dict, blank=True)
    on_success = models.CharField(max_length=60, default="next")
    on_failure = models.CharField(max_length=60, blank=True)
    max_retries = models.PositiveSmallIntegerField(default=3)
    timeout = models.FloatField(null=True, blank=True, help_text=_("Seconds the step may take"))
    rate = models.CharField(max_length=20, blank=True, help_text=_("At most, such as 30/minute"))

    class Meta:
        verbose_name = _("step")
        verbose_name_plural = _("steps")
        ordering = ["sop", "position", "id"]
        constraints = [models.UniqueConstraint(fields=["sop", "key"], name="step_key_once_per_sop")]

    def __str__(self) -> str:
        return self.name or self.key


class SopVersion(models.Model):
    """One published, numbered, unchangeable state of a SOP: what its runs keep to the end."""

    sop = models.ForeignKey(Sop, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    definition = models.JSONField()
    published_at = models.DateTimeField()
    published_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )

    class Meta:
        verbose_name = _("published version")
        verbose_name_plural = _("published versions")
        ordering = ["sop", "-number"]
        constraints = [models.UniqueConstraint(fields=["sop", "number"], name="version_number_once")]

    def __str__(self) -> str:
        return f"{self.sop_id} v{self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise ValidationError(_("A published version never changes; publish a new one."))
        super().save(*args, **kwargs)


class Task(models.Model):
    """One run of a SOP. Only the engine writes it; everybody else signals.

    `wake_at` is when somebody must look at this row again: its hour if it waits, the end of its
    lease if it runs, NULL when it is over or held. `seq` counts its events and fences its writers.
    """

    class Status(models.TextChoices):
        READY = "ready", _("Ready")
        RUNNING = "running", _("Running")
        WAITING = "waiting", _("Waiting")
        PAUSED = "paused", _("Paused")
        COMPLETED = "completed", _("Done")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Cancelled")

    class Priority(models.IntegerChoices):
        FIRST = 0, _("First")
        NORMAL = 1, _("Normal")
        LAST = 2, _("Last")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    version = models.ForeignKey(SopVersion, on_delete=models.PROTECT, related_name="tasks", db_index=False)
    parent = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="children", db_index=False
    )
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.READY)
    step = models.CharField(max_length=60)
    visit = models.PositiveIntegerField(default=1)
    retries = models.PositiveIntegerField(default=0)
    crashes = models.PositiveIntegerField(default=0)
    seq = models.BigIntegerField(default=0)
    wake_at = models.DateTimeField(null=True, blank=True)
    waiting_for = models.CharField(max_length=120, blank=True, default="")
    started_at = models.DateTimeField(null=True, blank=True)
    lease_owner = models.UUIDField(null=True, blank=True)
    mailbox = models.JSONField(default=list, blank=True)
    result = models.CharField(max_length=40, blank=True, default="")
    reason = models.CharField(max_length=200, blank=True, default="")
    priority = models.PositiveSmallIntegerField(choices=Priority.choices, default=Priority.NORMAL)
    idempotency_key = models.CharField(max_length=80, null=True, blank=True)
    context = models.JSONField(default=dict, blank=True)
    sealed = models.TextField(null=True, blank=True)
    request = models.TextField(null=True, blank=True)
    progress = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    scrub_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("run")
        verbose_name_plural = _("runs")
        ordering = ["-created_at"]
        permissions = [("operate_task", _("Can pause, resume, cancel and retry runs"))]
        indexes = [
            # The claim: due and healthy, most urgent first.
            models.Index(
                fields=["priority", "wake_at"], name="task_due", condition=Q(wake_at__isnull=False, crashes=0)
            ),
            # The claim of rows whose worker died, one at a time; also leases that ran out.
            models.Index(
                fields=["wake_at"], name="task_suspect", condition=Q(wake_at__isnull=False, crashes__gt=0)
            ),
            # Open children of a parent, and their counts by result.
            models.Index(
                fields=["parent", "status", "result"], name="task_family", condition=Q(parent__isnull=False)
            ),
            # The sweep's scrub.
            models.Index(fields=["scrub_at"], name="task_scrub", condition=Q(scrub_at__isnull=False)),
            # The list of runs, newest first.
            models.Index(fields=["-created_at"], name="task_newest"),
            # Open runs of a SOP: overlap, the SOP list, publishing.
            models.Index(
                fields=["version", "status"],
                name="task_open",
                condition=Q(status__in=["ready", "running", "waiting", "paused"]),
            ),
            # The sweep: parents whose last child may just have ended.
            models.Index(fields=["id"], name="task_parents", condition=Q(waiting_for="children")),
            # Runs that are held until their connection is open again.
            models.Index(
                fields=["waiting_for", "created_at"],
                name="task_held",
                condition=Q(waiting_for__startswith="provider:", wake_at__isnull=True, status="waiting"),
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["idempotency_key"],
                name="task_idempotency_key_once",
                condition=~Q(status="cancelled") & Q(idempotency_key__isnull=False),
            ),
            models.CheckConstraint(
                name="task_over_is_scrubbed",
                condition=~Q(status__in=["completed", "cancelled"])
                | Q(sealed__isnull=True, request__isnull=True, wake_at__isnull=True),
            ),
            models.CheckConstraint(
                name="task_failed_has_scrub_date",
                condition=~Q(status="failed") | Q(sealed__isnull=True) | Q(scrub_at__isnull=False),
            ),
            models.CheckConstraint(
                name="task_runs_with_a_lease", condition=~Q(status="running") | Q(wake_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id}"


class TaskEvent(models.Model):
    """What happened to a task, in order; never changed. `data` holds ids and codes only."""

    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="events", db_index=False)
    seq = models.BigIntegerField()
    kind = models.CharField(max_length=30)
    step = models.CharField(max_length=60, blank=True, default="")
    status = models.CharField(max_length=10)
    at = models.DateTimeField()
    data = models.JSONField(default=dict)

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ["task", "seq"]
        constraints = [models.UniqueConstraint(fields=["task", "seq"], name="event_seq_once")]

    def __str__(self) -> str:
        return f"{self.seq} {self.kind}"


class Approval(models.Model):
    """A question to a person. The first answer wins; what was approved is what is sent."""

    class State(models.TextChoices):
        OPEN = "open", _("Waiting for an answer")
        ANSWERED = "answered", _("Answered")
        EXPIRED = "expired", _("Expired")
        VOID = "void", _("Void")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    task = models.ForeignKey(Task, on_delete=models.CASCADE, related_name="approvals")
    step = models.CharField(max_length=60)
    visit = models.PositiveIntegerField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.OPEN)
    options = models.JSONField()
    sealed = models.TextField(null=True, blank=True)
    channel = models.CharField(max_length=80, blank=True, default="")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    choice = models.CharField(max_length=60, blank=True, default="")
    edited = models.BooleanField(default=False)
    answered_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    answered_at = models.DateTimeField(null=True, blank=True)
    # Who may answer: {"users": [logins], "groups": [names], "not": id of who started the run}; {}: all may.
    allowed = models.JSONField(default=dict, blank=True)
    assignee = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    # The chat message that lists it; NULL until staff were told.
    message = models.ForeignKey(
        "Notification", null=True, blank=True, on_delete=models.SET_NULL, related_name="lists"
    )

    class Meta:
        verbose_name = _("approval")
        verbose_name_plural = _("approvals")
        ordering = ["created_at"]
        permissions = [("answer_approval", _("Can answer approvals"))]
        indexes = [
            # The inbox of open questions, oldest first.
            models.Index(fields=["created_at"], name="approval_open", condition=Q(state="open")),
            # Questions of which staff have not been told.
            models.Index(
                fields=["created_at"], name="approval_untold", condition=Q(state="open", message__isnull=True)
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["task"], name="one_open_approval_per_task", condition=Q(state="open")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id}"


class Notification(models.Model):
    """One message to staff, on its way through the outbox."""

    class State(models.TextChoices):
        PENDING = "pending", _("Waiting to be posted")
        SENT = "sent", _("Posted")
        DEAD = "dead", _("Given up")

    class Medium(models.TextChoices):
        CHAT = "chat", _("Chat")
        MAIL = "mail", _("Mail")

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    task = models.ForeignKey(
        Task, null=True, blank=True, on_delete=models.CASCADE, related_name="notifications"
    )
    approval = models.ForeignKey(
        Approval, null=True, blank=True, on_delete=models.CASCADE, related_name="notifications"
    )
    kind = models.CharField(max_length=30, default="info")
    severity = models.CharField(max_length=10, default="info")
    channel = models.CharField(max_length=80, blank=True, default="")
    dedupe = models.CharField(max_length=120, null=True, blank=True, unique=True)
    sealed = models.TextField(null=True, blank=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    wake_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()
    sent_at = models.DateTimeField(null=True, blank=True)
    reference = models.CharField(max_length=120, blank=True, default="")
    reason = models.CharField(max_length=200, blank=True, default="")
    # By which way it goes: to the chat, or by mail to one person or to all of ESCALATIONS_EMAIL.
    medium = models.CharField(max_length=10, choices=Medium.choices, default=Medium.CHAT)
    recipient = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    # Equal alerts have the same `fold`: within its window the first one counts the others.
    fold = models.CharField(max_length=120, blank=True, default="")
    count = models.PositiveIntegerField(default=1)
    # The posted message that this one takes the place of.
    replaces = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.CASCADE, related_name="replaced_by"
    )

    class Meta:
        verbose_name = _("message")
        verbose_name_plural = _("messages")
        ordering = ["created_at"]
        indexes = [
            # The outbox: what must be posted next.
            models.Index(fields=["wake_at"], name="notification_due", condition=Q(wake_at__isnull=False)),
            # The newest of equal alerts.
            models.Index(fields=["fold", "-created_at"], name="notification_fold", condition=~Q(fold="")),
        ]
        constraints = [
            models.CheckConstraint(
                name="notification_sent_is_over", condition=~Q(state="sent") | Q(wake_at__isnull=True)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id}"


class ScheduledRun(models.Model):
    """One due slot of a SOP's schedule: it starts one task, or says why it did not."""

    sop = models.ForeignKey(Sop, on_delete=models.PROTECT, related_name="scheduled_runs")
    slot = models.DateTimeField()
    outcome = models.CharField(max_length=20)  # started, missed (catch-up rule), overlap, disabled
    task = models.ForeignKey(Task, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        verbose_name = _("scheduled run")
        verbose_name_plural = _("scheduled runs")
        ordering = ["sop", "-slot"]
        constraints = [models.UniqueConstraint(fields=["sop", "slot"], name="slot_once_per_sop")]

    def __str__(self) -> str:
        return f"{self.slot:%Y-%m-%d %H:%M} {self.outcome}"


class Pace(models.Model):
    """One rate limit: when its next free slot is."""

    name = models.CharField(max_length=160, primary_key=True)
    next_at = models.DateTimeField()

    class Meta:
        verbose_name = _("rate limit")
        verbose_name_plural = _("rate limits")

    def __str__(self) -> str:
        return self.name


class Pulse(models.Model):
    """A sign of life that every process can see: last sweep, last claim, the engine's brake."""

    name = models.CharField(max_length=60, primary_key=True)
    at = models.DateTimeField()
    data = models.JSONField(default=dict)

    class Meta:
        verbose_name = _("pulse")
        verbose_name_plural = _("pulses")

    def __str__(self) -> str:
        return self.name


class SpentKey(models.Model):
    """The idempotency key of a pruned task: it stays spent for ever."""

    key = models.CharField(max_length=80, primary_key=True)
    spent_at = models.DateTimeField()

    class Meta:
        verbose_name = _("spent key")
        verbose_name_plural = _("spent keys")

    def __str__(self) -> str:
        return self.key[:8]


class ChatAccount(models.Model):
    """Who one of us is in the chat: the chat's own id of a person, and the login it stands for."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="chat_account"
    )
    chat_id = models.CharField(max_length=80, unique=True)

    class Meta:
        verbose_name = _("chat account")
        verbose_name_plural = _("chat accounts")

    def __str__(self) -> str:
        return self.chat_id


class ContactMark(models.Model):
    """That and when a person was written to, or wants no mail; `person` is a keyed hash, never a name.

    `mark` is the key of the step that made it, so that a repeat of this step finds its own.
    """

    class Kind(models.TextChoices):
        MARKETING = "marketing", _("Marketing mail")
        REVIEW = "review", _("Asked for a review")
        ACKNOWLEDGEMENT = "acknowledgement", _("A mail was acknowledged")
        UNSUBSCRIBED = "unsubscribed", _("Wants no marketing mail")

    person = models.CharField(max_length=80)
    kind = models.CharField(max_length=20, choices=Kind.choices)
    at = models.DateTimeField()
    mark = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        verbose_name = _("contact mark")
        verbose_name_plural = _("contact marks")
        constraints = [models.UniqueConstraint(fields=["person", "kind"], name="contact_mark_once")]

    def __str__(self) -> str:
        return f"{self.person[:12]} {self.kind}"


class Holiday(models.Model):
    """A day on which nothing is sent; the shipped ones are rules in `tasks/holidays.py`."""

    day = models.DateField(unique=True)
    name = models.CharField(max_length=80)

    class Meta:
        verbose_name = _("holiday")
        verbose_name_plural = _("holidays")
        ordering = ["day"]

    def __str__(self) -> str:
        return f"{self.day} {self.name}"


class ApiKey(models.Model):
    """A key for the API: only its digest is kept. What it does is done in the name of `user`."""

    name = models.CharField(max_length=80, unique=True)
    prefix = models.CharField(max_length=12, unique=True)
    digest = models.CharField(max_length=64)
    scopes = models.JSONField(default=list)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


register_sealed("tasks.Task", "sealed", "request")
register_sealed("tasks.Approval", "sealed")
register_sealed("tasks.Notification", "sealed")
