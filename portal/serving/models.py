"""Where a launched model answers."""

from django.db import models


class Endpoint(models.Model):
    """The address of one launch attempt's server. Live exactly while its job runs."""

    attempt = models.OneToOneField("jobs.Attempt", on_delete=models.CASCADE, related_name="endpoint")
    url = models.CharField(max_length=300, help_text="http://host:port of the node's server.")
    model_name = models.CharField(max_length=80)
    ready_at = models.DateTimeField(auto_now_add=True)
    asked_at = models.DateTimeField(
        null=True, blank=True, help_text="When it last had a request, within half a minute."
    )

    def __str__(self) -> str:
        return f"{self.model_name} at {self.url}"

    @property
    def launch(self) -> int:
        """The job whose replica it is, or its own."""
        return self.attempt.job.replica_of_id or self.attempt.job_id
