"""The two commands a node takes off its queue: start an attempt, cancel an attempt.

They only hand over to the desk. Doesn't know how an attempt is run.
"""

from typing import Any

from celery import Celery

from workers.contract.names import CANCEL_TASK, START_TASK
from workers.desk import Desk


def register(app: Celery, desk: Desk) -> None:
    """Give the app its two tasks."""

    def start(order: dict[str, Any]) -> str | None:
        """Run one attempt to its end. The result is for the worker's log; the portal hears by events."""
        return desk.start(order)

    def cancel(job: int, attempt: int) -> None:
        """End one attempt, or keep it from starting."""
        desk.cancel(job, attempt)

    app.task(name=START_TASK)(start)
    app.task(name=CANCEL_TASK)(cancel)
