"""Where a launched model answers."""

from django.db import models


class Endpoint(models.Model):
    """The address of one launch attempt's server. Live exactly while its job runs."""

    attempt = models.OneToOneField("jobs.Attempt", on_delete=models.CASCADE, related_name="endpoint")
    url = models.CharField(max_length=300, help_text="http://host:port of the node's server.")
    model_name = models.CharField(max_length=80)
    ready_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.model_name} at {self.url}"
