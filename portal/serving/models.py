"""Where a launched model answers, and how fast it was found to."""

from django.db import models

from workers.contract.load_report import LoadReport


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


class LoadTest(models.Model):
    """What a load test found, beside what its launch was made of then, so that launches can be compared."""

    attempt = models.OneToOneField("jobs.Attempt", on_delete=models.CASCADE, related_name="load_test")
    launch = models.ForeignKey("jobs.Job", on_delete=models.CASCADE, related_name="load_tests")
    model = models.CharField(max_length=63, db_index=True, help_text="The base model's name.")
    served_as = models.CharField(max_length=80, help_text="The model's or the adapter's name.")
    engine = models.CharField(max_length=40, blank=True)
    quantization = models.CharField(max_length=40)
    devices = models.CharField(max_length=300, blank=True, help_text="Of the launch, in words.")
    report = models.JSONField(help_text="Contract LoadReport.")
    at = models.DateTimeField()

    class Meta:
        ordering = ["-attempt_id"]

    def __str__(self) -> str:
        return f"load test of launch #{self.launch_id}"

    @property
    def found(self) -> LoadReport:
        """The report, read."""
        return LoadReport.model_validate(self.report)
