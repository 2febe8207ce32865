"""The commands a node takes off its queue: start, cancel, preempt or revoke an attempt, send its events again.

They only hand over to the desk. Doesn't know how an attempt is run.
"""

from typing import Any

from celery import Celery

from workers.contract.names import CANCEL_TASK, PREEMPT_TASK, RESEND_TASK, REVOKE_TASK, START_TASK
from workers.desk import Desk


def register(app: Celery, desk: Desk) -> None:
    """Give the app its tasks."""

    def start(order: dict[str, Any]) -> str | None:
        """Run one attempt to its end. The result is for the worker's log; the portal hears by events."""
        return desk.start(order)

    def cancel(job: int, attempt: int) -> None:
        """End one attempt, or keep it from starting."""
        desk.cancel(job, attempt)

    def preempt(job: int, attempt: int) -> None:
        """End one attempt once it has saved its work."""
        desk.preempt(job, attempt)

    def revoke(job: int, attempt: int, token: str) -> None:
        """End one attempt whose lease is gone."""
        desk.revoke(job, attempt, token)

    def resend(job: int, attempt: int, token: str, after_seq: int) -> None:
        """Send the events after that one again."""
        desk.resend(job, attempt, token, after_seq)

    app.task(name=START_TASK)(start)
    app.task(name=CANCEL_TASK)(cancel)
    app.task(name=PREEMPT_TASK)(preempt)
    app.task(name=REVOKE_TASK)(revoke)
    app.task(name=RESEND_TASK)(resend)
