"""Jobs, their attempts, the devices those hold, the log of every change of state, and which controller leads."""

from django.conf import settings
from django.db import models

from portal.jobs.lifecycle import Status
from workers.contract.reasons import Reason

STATUS_CHOICES = [(status.value, status.value) for status in Status]


class Job(models.Model):
    """What a user asked for. `status` is written by portal.jobs.services alone."""

    name = models.CharField(max_length=120)
    kind = models.CharField(max_length=20)
    spec = models.JSONField(help_text="Contract JobSpec as submitted.")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="jobs")
    status = models.CharField(max_length=12, choices=STATUS_CHOICES, default=Status.QUEUED)
    attempt_number = models.PositiveIntegerField(default=0, help_text="The current attempt; 0 before the first.")
    reason = models.CharField(max_length=24, blank=True, help_text="Contract Reason of the end.")
    detail = models.TextField(blank=True)
    phase = models.CharField(max_length=80, blank=True)
    progress_done = models.FloatField(default=0)
    progress_total = models.FloatField(default=0)
    progress_unit = models.CharField(max_length=20, blank=True)
    eta_s = models.FloatField(null=True, blank=True)
    waiting_for = models.CharField(max_length=400, blank=True, help_text="Why it waits, from the scheduler.")
    queue_position = models.PositiveIntegerField(null=True, blank=True)
    expected_start_at = models.DateTimeField(null=True, blank=True)
    queued_at = models.DateTimeField(
        null=True, blank=True, help_text="When it was submitted, moved forward by the time it ran; none: not moved."
    )
    not_before = models.DateTimeField(null=True, blank=True, help_text="A retry waits until then.")
    idempotency_key = models.CharField(max_length=120, null=True, blank=True)  # noqa: DJ001 - null keeps it out of the constraint
    cloned_from = models.ForeignKey("self", null=True, blank=True, on_delete=models.SET_NULL, related_name="clones")
    replica_of = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="replicas",
        help_text="The launch whose further copy it is.",
    )
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["owner", "idempotency_key"], name="one_job_per_idempotency_key")]
        indexes = [
            # The list of jobs by status and 'live', the queue, live streams, the exporter's counts.
            models.Index(fields=["status", "-id"], name="jobs_by_status"),
            # The list of jobs by kind.
            models.Index(fields=["kind", "-id"], name="jobs_by_kind"),
            # Streams of jobs that ended a moment ago, which ingest still reads.
            models.Index(fields=["finished_at"], name="jobs_by_end"),
        ]

    def __str__(self) -> str:
        return f"#{self.pk} {self.name}"

    def get_sentence(self) -> str:
        """The sentence of the reason it ended for; empty while it lives."""
        return Reason(self.reason).sentence if self.reason else ""

    def took_s(self) -> float | None:
        """Seconds from start to end; None when it never did both."""
        return (self.finished_at - self.started_at).total_seconds() if self.started_at and self.finished_at else None


class Attempt(models.Model):
    """One try at a job, on one node or on several (Member)."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="attempts")
    number = models.PositiveIntegerField()
    node = models.ForeignKey("fleet.Node", on_delete=models.PROTECT, related_name="attempts")
    nodes = models.PositiveSmallIntegerField(default=1, help_text="How many it runs on; `node` is the first.")
    order = models.JSONField(help_text="Contract Order that was dispatched, less its secrets.")
    reason = models.CharField(max_length=24, blank=True)
    detail = models.TextField(blank=True)
    token = models.CharField(max_length=64, blank=True, help_text="The order's: names this attempt in its lease.")
    predicted = models.JSONField(null=True, blank=True, help_text="What the planner expected when it was dispatched.")
    last_seq = models.PositiveIntegerField(default=0, help_text="Every event up to this one is stored.")
    ahead = models.JSONField(default=list, blank=True, help_text="[first, last] of stored events beyond a gap.")
    gap_since = models.DateTimeField(null=True, blank=True, help_text="When events were first seen to be missing.")
    checkpoint = models.JSONField(null=True, blank=True, help_text="Contract ResumeInput of its newest checkpoint.")
    resumed_step = models.PositiveIntegerField(
        null=True, blank=True, help_text="The step it went on from, as the node said; 0 for one that began anew."
    )
    lease_until = models.DateTimeField(
        null=True, blank=True, help_text="Renewed by each heartbeat that names it; none before the first."
    )
    preempt_asked_at = models.DateTimeField(null=True, blank=True, help_text="When it was told to make room.")
    dispatched_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["job_id", "number"]
        constraints = [models.UniqueConstraint(fields=["job", "number"], name="one_attempt_per_number")]
        indexes = [
            # What nodes hold: leases, reconciliation, the sweep.
            models.Index(fields=["node"], condition=models.Q(finished_at=None), name="live_attempts_by_node"),
            # Attempts of which events are missing.
            models.Index(fields=["gap_since"], condition=models.Q(gap_since__isnull=False), name="attempts_with_gaps"),
        ]

    def __str__(self) -> str:
        return f"job {self.job_id} attempt {self.number}"

    def get_sentence(self) -> str:
        """The sentence of the reason it ended for; empty while it lives."""
        return Reason(self.reason).sentence if self.reason else ""

    def resumed_from(self) -> int | None:
        """The step whose checkpoint it went on from; None for one that began anew."""
        if self.resumed_step is not None:
            return self.resumed_step or None
        resume = self.order.get("resume")
        return int(resume["step"]) if resume else None


class Member(models.Model):
    """One node of an attempt on several; the first one, of rank 0, is the attempt's own. Written by jobs.members.

    Each holds a lease of its own and says of itself how it ended.
    """

    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="members")
    rank = models.PositiveSmallIntegerField()
    node = models.ForeignKey("fleet.Node", on_delete=models.PROTECT, related_name="memberships")
    order = models.JSONField(help_text="Contract Order that was dispatched to it.")
    last_seq = models.PositiveIntegerField(default=0, help_text="Its latest event; of rank 0 the attempt's counts.")
    output = models.JSONField(default=list, blank=True, help_text="Its last lines; those of rank 0 are the attempt's.")
    parts = models.JSONField(default=list, blank=True, help_text="Its parts of the newest checkpoints: ResumeInputs.")
    lease_until = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=24, blank=True)
    detail = models.TextField(blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["attempt_id", "rank"]
        constraints = [models.UniqueConstraint(fields=["attempt", "rank"], name="one_member_per_rank")]
        indexes = [
            # What nodes hold: leases, reconciliation, the sweep.
            models.Index(fields=["node"], condition=models.Q(finished_at=None), name="live_members_by_node")
        ]

    def __str__(self) -> str:
        return f"node {self.rank} of {self.attempt}"


class Allocation(models.Model):
    """A device held by an attempt: all of it, or so many bytes of it beside others.

    The constraint keeps two off one device that have it alone; who shares, the claim counts (portal.jobs.claims).
    """

    attempt = models.ForeignKey(Attempt, on_delete=models.CASCADE, related_name="allocations")
    accelerator = models.ForeignKey("fleet.Accelerator", on_delete=models.PROTECT, related_name="allocations")
    reserved_bytes = models.PositiveBigIntegerField(
        null=True, blank=True, help_text="It shares the device and is planned to take so much of it; none: all of it."
    )
    released_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["accelerator"],
                condition=models.Q(released_at__isnull=True, reserved_bytes__isnull=True),
                name="one_lone_holder_per_device",
            )
        ]
        indexes = [
            # What teams used lately.
            models.Index(fields=["released_at"], name="allocations_by_release")
        ]

    def __str__(self) -> str:
        return f"{self.accelerator} held by {self.attempt}"


class Measurement(models.Model):
    """What a finished attempt took, beside what the planner says of just that, before calibration.

    Bytes of the fullest device without the driver's context or the program itself; seconds of a step, or of a token.
    """

    attempt = models.OneToOneField(Attempt, on_delete=models.CASCADE, related_name="measurement")
    device = models.CharField(max_length=200, help_text="The device's model, by the planner's name for it.")
    method = models.CharField(max_length=120, help_text="What was done: goal, number type, recomputing, sharding.")
    basis = models.CharField(max_length=20, help_text="How the bytes were measured: cuda_reserved or rss.")
    sequence_tokens = models.PositiveIntegerField(help_text="Tokens of its longest sequence.")
    predicted_bytes = models.PositiveBigIntegerField()
    measured_bytes = models.PositiveBigIntegerField()
    predicted_step_s = models.FloatField(null=True, blank=True)
    measured_step_s = models.FloatField(null=True, blank=True)
    at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["-at", "-pk"]

    def __str__(self) -> str:
        return f"{self.method} on {self.device}"

    def bytes_error(self) -> float:
        """(predicted - measured) / measured; negative where it took more than was said."""
        return self.predicted_bytes / self.measured_bytes - 1

    def step_error(self) -> float | None:
        """The same of the seconds; None where they weren't measured."""
        if not self.predicted_step_s or not self.measured_step_s:
            return None
        return self.predicted_step_s / self.measured_step_s - 1


class Transition(models.Model):
    """One change of a job's status: the state timeline."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="transitions")
    attempt_number = models.PositiveIntegerField(default=0)
    old = models.CharField(max_length=12, blank=True)
    new = models.CharField(max_length=12)
    reason = models.CharField(max_length=24, blank=True)
    note = models.CharField(max_length=400, blank=True)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.old} → {self.new}"


class Leadership(models.Model):
    """Which process leads: one row a role. Written by compare-and-set (portal.jobs.leadership)."""

    name = models.CharField(max_length=40, primary_key=True)
    holder = models.CharField(max_length=120, blank=True, help_text="Empty when nobody leads.")
    until = models.DateTimeField(help_text="By the holder's clock; each renewal changes it.")
    term = models.PositiveBigIntegerField(default=0, help_text="Counts the changes of the holder.")

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "leaderships"

    def __str__(self) -> str:
        return f"{self.name}: {self.holder or 'nobody'}"
