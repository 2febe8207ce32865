"""Why an attempt ended: one enum that gives the final status, the user's sentence and whether a retry makes sense.

Does not know how a reason is found out (supervisor) nor what is done about it (jobs, diagnosis).
"""

from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """Final status of an attempt and of its job."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Meaning(NamedTuple):
    """What a reason stands for. `sentence` is what the user reads; details are shown beside it."""

    outcome: Outcome
    sentence: str
    may_retry: bool = False


class Reason(StrEnum):
    """Every way an attempt can end."""

    COMPLETED = "completed"
    CANCELLED = "cancelled"
    OUT_OF_MEMORY = "out_of_memory"
    NAN_LOSS = "nan_loss"
    INVALID_INPUT = "invalid_input"
    ARTIFACT_MISSING = "artifact_missing"
    ARTIFACT_DAMAGED = "artifact_damaged"
    STORE_UNREACHABLE = "store_unreachable"
    DISK_FULL = "disk_full"
    UNSUPPORTED_SPEC = "unsupported_spec"
    PREFLIGHT_FAILED = "preflight_failed"
    CRASHED = "crashed"
    KILLED = "killed"
    NEVER_STARTED = "never_started"
    WORKER_STOPPED = "worker_stopped"
    NODE_LOST = "node_lost"
    PREEMPTED = "preempted"
    PEER_LOST = "peer_lost"
    IDLE = "idle"
    CRASH_LOOP = "crash_loop"
    LAUNCH_GONE = "launch_gone"

    @property
    def meaning(self) -> Meaning:
        return _MEANINGS[self]

    @property
    def outcome(self) -> Outcome:
        return self.meaning.outcome

    @property
    def sentence(self) -> str:
        return self.meaning.sentence

    @property
    def may_retry(self) -> bool:
        return self.meaning.may_retry


_MEANINGS = {
    Reason.COMPLETED: Meaning(Outcome.SUCCEEDED, "The job ran to its end."),
    Reason.CANCELLED: Meaning(Outcome.CANCELLED, "The job was stopped by a user."),
    Reason.OUT_OF_MEMORY: Meaning(
        Outcome.FAILED, "The device ran out of memory; a smaller micro batch or context length would need less."
    ),
    Reason.NAN_LOSS: Meaning(
        Outcome.FAILED, "The loss became NaN or infinite; a lower learning rate or fp32 usually holds it."
    ),
    Reason.INVALID_INPUT: Meaning(Outcome.FAILED, "The model, dataset or settings cannot be used together."),
    Reason.ARTIFACT_MISSING: Meaning(
        Outcome.FAILED, "The node could not read the model, dataset or adapter from the artifact store.", True
    ),
    Reason.ARTIFACT_DAMAGED: Meaning(
        Outcome.FAILED,
        "What lies in the artifact store is not what was stored there: its hash differs; store or register it again.",
    ),
    Reason.STORE_UNREACHABLE: Meaning(Outcome.FAILED, "The node could not reach the artifact store.", True),
    Reason.DISK_FULL: Meaning(
        Outcome.FAILED,
        "The node's disk, or the artifact store's, is full; the LIFTOFF_KEEP settings say how much is kept.",
        True,
    ),
    Reason.UNSUPPORTED_SPEC: Meaning(
        Outcome.FAILED, "The node's worker does not know this version of the job; upgrade the worker."
    ),
    Reason.PREFLIGHT_FAILED: Meaning(
        Outcome.FAILED, "The node is not ready for this job; each failed line of its preflight says what to do."
    ),
    Reason.CRASHED: Meaning(Outcome.FAILED, "The job's process ended with an error; its log has the cause."),
    Reason.KILLED: Meaning(
        Outcome.FAILED,
        "The job's process was killed from outside (signal); often the system ran out of memory.",
        True,
    ),
    Reason.NEVER_STARTED: Meaning(Outcome.FAILED, "The node did not start the job in time.", True),
    Reason.WORKER_STOPPED: Meaning(Outcome.FAILED, "The node's worker stopped while the job ran.", True),
    Reason.NODE_LOST: Meaning(Outcome.FAILED, "The node stopped reporting while the job ran.", True),
    Reason.PEER_LOST: Meaning(Outcome.FAILED, "Another node of the job went away while it ran.", True),
    Reason.IDLE: Meaning(
        Outcome.CANCELLED, "The model was asked nothing for as long as its launch allows; a request starts it again."
    ),
    Reason.CRASH_LOOP: Meaning(
        Outcome.FAILED, "It ended again and again soon after its start, so it isn't started any more; its log has why."
    ),
    Reason.LAUNCH_GONE: Meaning(
        Outcome.FAILED, "The launch under test does not answer any more; start it again, then test it."
    ),
    Reason.PREEMPTED: Meaning(Outcome.FAILED, "A job of higher priority took its devices; it goes on later.", True),
}
