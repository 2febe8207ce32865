"""Events of attempts as rows. (attempt, seq) names an event; storing one twice changes nothing."""

from django.db import models


class MetricPoint(models.Model):
    """One value of one series."""

    attempt = models.ForeignKey("jobs.Attempt", on_delete=models.CASCADE, related_name="metric_points")
    seq = models.PositiveIntegerField()
    name = models.CharField(max_length=60)
    step = models.PositiveIntegerField(null=True)
    at = models.FloatField(help_text="Unix seconds.")
    value = models.FloatField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["attempt", "name", "seq"], name="one_value_per_event")]

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


class LogLine(models.Model):
    """One line of an attempt's output."""

    attempt = models.ForeignKey("jobs.Attempt", on_delete=models.CASCADE, related_name="log_lines")
    seq = models.PositiveIntegerField()
    at = models.FloatField(help_text="Unix seconds.")
    stream = models.CharField(max_length=12)
    text = models.TextField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["attempt", "seq"], name="one_line_per_event")]

    def __str__(self) -> str:
        return self.text


class AttemptEvent(models.Model):
    """Any other event: started, phase, result, ready, artifact, failed, finished."""

    attempt = models.ForeignKey("jobs.Attempt", on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveIntegerField()
    at = models.FloatField(help_text="Unix seconds.")
    type = models.CharField(max_length=24)
    payload = models.JSONField()

    class Meta:
        ordering = ["attempt_id", "seq"]
        constraints = [models.UniqueConstraint(fields=["attempt", "seq"], name="one_row_per_event")]

    def __str__(self) -> str:
        return self.type
