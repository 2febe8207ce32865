"""What every contract model is built of: immutable pydantic models, names, versions, settings that all jobs share.

Knows no job kind.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from workers.contract.names import SLUG

SPEC_VERSION = 1


Precision = Literal["auto", "fp32", "bf16", "fp16"]


class UnknownVersion(ValueError):
    """The spec was written by a newer Liftoff."""


def _known_version(value: int) -> int:
    if value != SPEC_VERSION:
        raise UnknownVersion(f"{value} is not a version this Liftoff knows; it speaks version {SPEC_VERSION}.")
    return value


def _slug(value: str) -> str:
    if not SLUG.fullmatch(value):
        raise ValueError(f"{value!r} is not a name; use lower-case letters, digits, dots, dashes and underscores.")
    return value


Slug = Annotated[str, AfterValidator(_slug)]


Version = Annotated[int, AfterValidator(_known_version)]


class Contract(BaseModel):
    """Base of every contract model: immutable, unknown fields ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    @classmethod
    def told(cls, value: Any) -> Self | None:
        """What a run told, such as one of its results; None for nothing, and for what is no such thing."""
        try:
            return cls.model_validate(value)
        except ValidationError:
            return None


Priority = Annotated[
    int,
    Field(ge=-100, le=100, title="Priority", description="Higher goes first; waiting raises every job's with time."),
]
