"""Results of finished jobs in the artifact store: what each takes and what needs it.

Only folders that an attempt of this database was told to fill; others are somebody else's. Knows nothing of rows.
"""

import logging
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from portal.catalog import store
from portal.catalog.models import Adapter, Dataset, ModelProfile
from portal.jobs.lifecycle import FINAL, LIVE
from portal.jobs.models import Attempt, Job
from workers.contract.keeping import DAY_S, Doomed, Limit, Thing
from workers.contract.names import UnsafeURI, store_uri

log = logging.getLogger(__name__)

FOLDER = "jobs"
"""Of the store, where attempts' folders are (portal.jobs.orders)."""
MANIFEST = "manifest.json"
"""Stays as long as anything beside it: it says how that was made."""
_NAME = re.compile(r"(?P<job>[1-9]\d{0,17})-\d+-[A-Za-z0-9]+", re.ASCII)
_AT_ONCE = 500


class _Owner(NamedTuple):
    """The job that an attempt's folder is of."""

    job: int
    live: bool
    ended_at: float


def things(now: datetime, limit: Limit) -> Iterator[Thing[str]]:
    """Each thing in the folders of attempts, by its URI. Without a limit of size, only of those that are too old."""
    if not (limit.days or limit.size):
        return
    folders = store.entries(store_uri(FOLDER))
    needs = _Needs()
    cutoff = now.timestamp() - limit.days * DAY_S if limit.days else float("-inf")
    for start in range(0, len(folders), _AT_ONCE):
        some = folders[start : start + _AT_ONCE]
        owners = _owners(some, now)
        for folder in some:
            owner = owners.get(folder)
            if owner and (limit.size or owner.ended_at < cutoff):
                yield from _inside(folder, owner, needs)


def remove(doomed: list[Doomed[str]]) -> list[Doomed[str]]:
    """Delete these, and folders that are empty then; those that could be."""
    removed = []
    for item in doomed:
        try:
            store.remove(item.thing.key)
            folder = item.thing.key.rsplit("/", 1)[0]
            if not store.entries(folder):
                store.remove(folder)
        except (OSError, UnsafeURI) as error:
            log.warning("%s can't be deleted: %s", item.thing.key, error)
        else:
            removed.append(item)
    return removed


def _inside(folder: str, owner: _Owner, needs: "_Needs") -> Iterator[Thing[str]]:
    names = store.entries(store_uri(FOLDER, folder))
    held = {name: f"job #{owner.job} is live" if owner.live else needs.of(folder, name) for name in names}
    if MANIFEST in held:
        held[MANIFEST] = next(filter(None, held.values()), "")
    for name in names:
        uri = store_uri(FOLDER, folder, name)
        yield Thing(uri, owner.ended_at, sum(size for _, size in store.files(uri)), held[name])


def _owners(folders: list[str], now: datetime) -> dict[str, _Owner]:
    """Folder → job, of those that an attempt was told to fill."""
    jobs = {int(match["job"]) for match in map(_NAME.fullmatch, folders) if match}
    rows = Attempt.objects.filter(job_id__in=jobs).order_by()
    columns = ("job_id", "order__result_uri", "job__status", "job__finished_at")
    owners = {}
    for job, uri, status, finished_at in rows.values_list(*columns):
        live = status not in FINAL or finished_at is None
        ended_at = finished_at.timestamp() if finished_at else now.timestamp()
        owners[str(uri).removeprefix(store_uri(FOLDER, ""))] = _Owner(job, live, ended_at)
    return owners


class _Needs:
    """What in the folders of attempts the catalog or a live job names, or something above or below it."""

    def __init__(self) -> None:
        self._root = store.locate(store_uri(FOLDER))
        self._all = ""
        self._folders: dict[str, list[tuple[str, str]]] = {}
        for uri, who in _named():
            self._add(uri, who)

    def of(self, folder: str, name: str) -> str:
        """Who needs something of it; '' when nobody does."""
        inside = f"{folder}/{name}/"
        found = (who for place, who in self._folders.get(folder, ()) if _overlap(place, inside))
        return self._all or next(found, "")

    def _add(self, uri: str, who: str) -> None:
        try:
            place = store.locate(uri) + "/"
        except (UnsafeURI, ValueError):
            return  # a hub's, or outside: not in the store
        if f"{self._root}/".startswith(place):
            self._all = self._all or who
        elif place.startswith(self._root + "/"):
            relative = place.removeprefix(self._root + "/")
            self._folders.setdefault(relative.split("/")[0], []).append((relative, who))


def _overlap(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _named() -> Iterator[tuple[str, str]]:
    """(URI, who names it)."""
    for name, uri in Adapter.objects.values_list("name", "uri"):
        yield uri, f"adapter {name}"
    for name, *uris in Dataset.objects.values_list("name", "train_uri", "test_uri"):
        yield from ((uri, f"dataset {name}") for uri in uris if uri)
    for name, uri in ModelProfile.objects.values_list("name", "uri"):
        yield uri, f"model {name}"
    live = Job.objects.filter(status__in=LIVE).order_by()
    for pk, spec in live.values_list("pk", "spec"):
        yield from ((uri, f"job #{pk} is live") for uri in _uris(spec))
    for pk, order in Attempt.objects.filter(job__in=live).order_by().values_list("job_id", "order"):
        yield from ((uri, f"job #{pk} is live") for uri in _uris(order))


def _uris(value: Any) -> Iterator[str]:
    """Every string in it that may name a place: also the checkpoint that a run goes on from."""
    if isinstance(value, str):
        if "/" in value:
            yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _uris(part)
    elif isinstance(value, list):
        for part in value:
            yield from _uris(part)
