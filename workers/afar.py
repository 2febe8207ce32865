"""Reaching a store that lies afar: its file system, patience with a line that breaks, and trouble in one sentence.

Doesn't know what is stored there.
"""

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar, cast

import fsspec

from workers.contract.reasons import Reason

Value = TypeVar("Value")

WAITS_S = (0.5, 2.0, 8.0, 20.0)
"""Between tries of one transfer, beside those that the driver makes by itself."""


class ArtifactMissing(LookupError):
    """What is at the URI can't be had. The message is one sentence."""

    reason: ClassVar[Reason] = Reason.ARTIFACT_MISSING


class StoreUnreachable(ArtifactMissing):
    """The store doesn't answer."""

    reason: ClassVar[Reason] = Reason.STORE_UNREACHABLE


class ArtifactDamaged(ArtifactMissing):
    """What came has another hash than what was asked for."""

    reason: ClassVar[Reason] = Reason.ARTIFACT_DAMAGED


class NoRoom(ArtifactMissing):
    """The node's disk, or its share for copies, is full."""

    reason: ClassVar[Reason] = Reason.DISK_FULL


def reason_of(error: Exception) -> Reason:
    """Why an attempt ends that meets it."""
    if isinstance(error, ArtifactMissing):
        return error.reason
    return Reason.DISK_FULL if isinstance(error, OSError) and error.errno == errno.ENOSPC else Reason.CRASHED


def filesystem(place: str) -> tuple[Any, str]:
    """fsspec's file system for a place, and the path in it. Others write there too, so no listing is remembered.

    Raises ImportError (one sentence) without its driver.
    """
    try:
        options = {"use_listings_cache": False} if place.startswith("s3://") else {}
        return cast(tuple[Any, str], fsspec.core.url_to_fs(place, **options))
    except ImportError as error:
        raise ImportError(f"{place.split('://')[0]}:// needs a driver on this node ({error})") from error


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turns whatever a driver raises into ArtifactMissing or one of its kinds."""
    try:
        yield
    except ArtifactMissing:
        raise
    except FileNotFoundError as error:
        raise ArtifactMissing(f"Nothing is at {uri!r} in the artifact store.") from error
    except (PermissionError, ImportError) as error:
        raise ArtifactMissing(f"{uri!r} can't be read or written: {_said(error)}.") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NoRoom(f"The node's disk is full; {uri!r} has no room on it.") from error
        raise StoreUnreachable(f"The artifact store can't be reached for {uri!r}: {_said(error)}.") from error
    except Exception as error:
        if not _is_the_drivers(error):
            raise
        raise StoreUnreachable(f"The artifact store can't be reached for {uri!r}: {_said(error)}.") from error


def patiently(transfer: Callable[[], Value]) -> Value:
    """Its value, tried again after each of WAITS_S while the line breaks."""
    for wait_s in WAITS_S:
        try:
            return transfer()
        except Exception as error:
            if not _may_pass(error):
                raise
            time.sleep(wait_s)
    return transfer()


def _may_pass(error: Exception) -> bool:
    """Whether another try may help."""
    if isinstance(error, OSError):
        return not isinstance(error, FileNotFoundError | PermissionError) and error.errno != errno.ENOSPC
    return _is_the_drivers(error)


def _is_the_drivers(error: Exception) -> bool:
    """What S3's driver raises beside OSError: no connection, no credentials, an answer cut short."""
    try:
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return False
    return isinstance(error, BotoCoreError | ClientError)


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
