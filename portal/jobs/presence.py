"""Whether the files behind the records that a spec names are still there, before its job has to find out on a node.

Asks the store, so never within a transaction. Knows nothing of what is in the files.
"""

from django.conf import settings

from portal.catalog import store
from portal.catalog.models import Adapter, ModelProfile
from portal.jobs.checks import Named
from workers.contract.errors import FieldError, Refused
from workers.contract.names import UnsafeURI


def check(named: Named) -> None:
    """Raises Refused at `model` or `adapter` where its files are gone."""
    records = [("model", named.model), ("adapter", named.adapter)]
    errors = [
        FieldError(
            field,
            record.name,
            f"{field}: the files of {record.name} are gone, there is nothing at {record.uri} any more; put them back, "
            f"or choose another {field}.",
        )
        for field, record in records
        if record and _is_gone(record)
    ]
    if errors:
        raise Refused(errors)


def _is_gone(record: ModelProfile | Adapter) -> bool:
    """False also where that can't be said from here: of a model hub, or where the store isn't mounted or doesn't
    answer."""
    if record.uri.startswith("hub://"):
        return False
    try:
        return store.exists(settings.LIFTOFF_STORE) and not store.exists(record.uri)
    except (OSError, UnsafeURI):
        return False
