"""The cluster inventory: nodes, their accelerators and the links between them."""

from django.core.validators import RegexValidator
from django.db import models

from workers.contract.names import SLUG


class Node(models.Model):
    """One machine with a worker. Sizes in bytes, rates in bytes per second."""

    class State(models.TextChoices):
        ACTIVE = "active", "Active"
        DRAINING = "draining", "Draining"

    name = models.CharField(max_length=63, unique=True, validators=[RegexValidator(SLUG)])
    address = models.CharField(max_length=255, default="127.0.0.1")
    state = models.CharField(max_length=10, choices=State, default=State.ACTIVE)
    cores = models.PositiveIntegerField(default=0)
    ram_bytes = models.PositiveBigIntegerField(default=0)
    disk_free_bytes = models.PositiveBigIntegerField(default=0)
    disk_read_bytes_per_s = models.FloatField(null=True, blank=True)
    driver = models.CharField(max_length=40, blank=True)
    cuda = models.CharField(max_length=40, blank=True)
    versions = models.JSONField(default=dict, blank=True)
    labels = models.JSONField(default=dict, blank=True)
    interfaces = models.JSONField(default=list, blank=True, help_text="Contract InterfaceProfile objects.")
    last_seen_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Accelerator(models.Model):
    """One device of a node; the CPU counts as one where there is no GPU."""

    class Kind(models.TextChoices):
        CUDA = "cuda", "CUDA"
        CPU = "cpu", "CPU"

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="accelerators")
    kind = models.CharField(max_length=8, choices=Kind)
    index = models.PositiveSmallIntegerField()
    name = models.CharField(max_length=160)
    memory_bytes = models.PositiveBigIntegerField()
    uuid = models.CharField(max_length=80, blank=True)
    power_limit_w = models.FloatField(null=True, blank=True)
    compute_capability = models.CharField(max_length=12, blank=True)
    present = models.BooleanField(default=True, help_text="Seen at the last probe.")
    strangers = models.JSONField(
        default=list, blank=True, help_text="Who holds memory of it that no live attempt explains: Stranger objects."
    )

    class Meta:
        ordering = ["node__name", "kind", "index"]
        constraints = [models.UniqueConstraint(fields=["node", "kind", "index"], name="one_device_per_index")]

    def __str__(self) -> str:
        return f"{self.kind}:{self.index} on {self.node.name}"


class Link(models.Model):
    """How two accelerators of a node reach each other."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="links")
    a = models.PositiveSmallIntegerField()
    b = models.PositiveSmallIntegerField()
    kind = models.CharField(max_length=10)
    detail = models.CharField(max_length=80, blank=True)

    class Meta:
        ordering = ["node__name", "a", "b"]
        constraints = [models.UniqueConstraint(fields=["node", "a", "b"], name="one_link_per_pair")]

    def __str__(self) -> str:
        return f"{self.a}–{self.b} {self.kind}"


class PreflightReport(models.Model):
    """What a preflight found on a node. Lines are of contract Line; the node's page shows the newest."""

    class State(models.TextChoices):
        OK = "ok", "OK"
        WARN = "warn", "Warning"
        FAIL = "fail", "Failed"

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="preflights")
    job_number = models.PositiveBigIntegerField(help_text="The preflight job, or the launch it came before.")
    attempt_number = models.PositiveIntegerField()
    state = models.CharField(max_length=4, choices=State, help_text="The worst of its lines.")
    lines = models.JSONField()
    took_s = models.FloatField()
    at = models.DateTimeField(help_text="When it began, by the node's clock.")

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["job_number", "attempt_number"], name="one_preflight_per_attempt")
        ]
        indexes = [models.Index(fields=["node", "-id"], name="newest_preflight")]

    def __str__(self) -> str:
        return f"preflight of {self.node.name} by job {self.job_number}"


class SweepReport(models.Model):
    """What an all-reduce sweep measured on a node: a contract Sweep; the node's page draws the newest."""

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="sweeps")
    job_number = models.PositiveBigIntegerField()
    attempt_number = models.PositiveIntegerField()
    sweep = models.JSONField()
    at = models.DateTimeField(help_text="When it began, by the node's clock.")

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint(fields=["job_number", "attempt_number"], name="one_sweep_per_attempt")]
        indexes = [models.Index(fields=["node", "-id"], name="newest_sweep")]

    def __str__(self) -> str:
        return f"sweep of {self.node.name} by job {self.job_number}"


class NodeEvent(models.Model):
    """Something that happened to a node and that its page tells: lost, back, a run on it ended because nobody holds it.

    Its job, where there is one, is named in the text; the newest come first.
    """

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="events")
    text = models.CharField(max_length=400)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["node", "-id"], name="newest_node_events")]

    def __str__(self) -> str:
        return f"{self.node.name}: {self.text}"
