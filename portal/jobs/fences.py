"""What nodes read to learn whether an attempt is still theirs: the hash LEASES in Redis, job → '<attempt>:<token>'.

A copy of what the database says, written by the leading controller alone. An order's field is there before its node
hears of it; EPOCH_FIELD tells a node that a missing field means a lost lease and not a Redis that lost its data.
Does not decide who holds a lease (leases).
"""

import logging
from collections.abc import Callable, Iterable

import redis

from portal.jobs.connection import client
from portal.jobs.models import Attempt
from workers.contract.names import EPOCH_FIELD, LEASES, fence_of
from workers.contract.order import Order

log = logging.getLogger(__name__)
_CHANGE = """
for at = 1, #ARGV, 3 do
  local field, old, new = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if (redis.call('hget', KEYS[1], field) or '') == old then
    if new == '' then redis.call('hdel', KEYS[1], field) else redis.call('hset', KEYS[1], field, new) end
  end
end
"""
"""Takes (field, what it says now, what it is to say), '' for nothing: a field that says something else is left."""


def grant(orders: Iterable[Order]) -> bool:
    """Let the orders' nodes find their leases. False when Redis could not be reached; saying it twice is harmless."""
    fields = {str(order.job): _value(order.attempt, fence_of(order.token)) for order in orders}
    return _try(lambda: client().hset(LEASES, items=_flat(fields)))


def withdraw(job: int, attempt: int, token: str) -> bool:
    """Take the field of an ended attempt away, unless a later attempt has it by now.

    False when Redis could not be reached; `publish` does it then.
    """
    return _try(lambda: client().eval(_CHANGE, 1, LEASES, str(job), _value(attempt, token), ""))


def publish(epoch: int) -> bool:
    """Make the hash say what the database says. True when Redis had lost it.

    What somebody else changed since the hash was read stays as it is now, until the next time.

    Raises redis.RedisError or OSError when it can't be reached.
    """
    found: dict[str, str] = client().hgetall(LEASES)  # type: ignore[assignment]
    live = Attempt.objects.filter(finished_at=None).order_by().values_list("job_id", "number", "token")
    wanted = {str(job): _value(number, token) for job, number, token in live} | {EPOCH_FIELD: str(epoch)}
    changes = [
        (field, found.get(field, ""), wanted.get(field, ""))
        for field in found.keys() | wanted.keys()
        if found.get(field) != wanted.get(field)
    ]
    if changes:
        client().eval(_CHANGE, 1, LEASES, *[part for change in changes for part in change])
    return EPOCH_FIELD not in found


def _value(attempt: int, token: str) -> str:
    return f"{attempt}:{token}"


def _flat(fields: dict[str, str]) -> list[str]:
    return [part for field in fields.items() for part in field]


def _try(call: Callable[[], object]) -> bool:
    try:
        call()
    except (redis.RedisError, OSError) as error:
        log.warning("the leases in Redis could not be changed: %s", error)
        return False
    return True
