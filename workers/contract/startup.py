"""How a launch started: the seconds of each step, from its libraries to the first token that somebody waited for.

Knows nothing of how they are measured.
"""

from pydantic import Field, FiniteFloat

from workers.contract.base import Contract

RESULT = "start"
"""Name of the Result event that carries a StartUp: said when the launch is ready, and again after its first answer."""


class StartUp(Contract):
    """Steps that follow one another; seconds."""

    libraries_s: FiniteFloat = Field(ge=0, description="Importing what serves.")
    preflight_s: FiniteFloat | None = Field(None, ge=0, description="None where it was skipped.")
    read_s: FiniteFloat | None = Field(
        None, ge=0, description="The weights' files, from disk or page cache; None where they are left to the loader."
    )
    read_bytes: int = Field(0, ge=0)
    load_s: FiniteFloat = Field(ge=0, description="Weights onto the device, tried out, until the launch listens.")
    disk_bytes_per_s: FiniteFloat | None = Field(
        None, gt=0, description="What preflight found the disk to read of these files; None where it found nothing."
    )
    first_token_s: FiniteFloat | None = Field(
        None, ge=0, description="From the first request to its first token; None before it."
    )

    @property
    def ready_s(self) -> float:
        """From the start of the process until the launch answers."""
        return self.libraries_s + (self.preflight_s or 0) + (self.read_s or 0) + self.load_s

    @property
    def to_first_token_s(self) -> float | None:
        """The same and the first token, as if it had been asked for at once."""
        return None if self.first_token_s is None else self.ready_s + self.first_token_s

    @property
    def read_bytes_per_s(self) -> float | None:
        """Above the disk's where the files were in the page cache."""
        return self.read_bytes / self.read_s if self.read_s else None

    @property
    def disk_s(self) -> float | None:
        """What the disk alone needs for the files: no start is faster from a cold disk."""
        return self.read_bytes / self.disk_bytes_per_s if self.disk_bytes_per_s and self.read_bytes else None
