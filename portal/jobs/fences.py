"""What nodes read to learn whether an attempt is still theirs: the hash LEASES in Redis, job → '<attempt>:<token>'.

A copy of what the database says, written by the leading controller alone. An order's field is there before its node
hears of it; EPOCH_FIELD tells a node that a missing field means a lost lease and not a Redis that lost its data.
Does not decide who holds a lease (leases).
"""

import logging
from collections.abc import Callable

import redis

from portal.jobs.connection import client
from portal.jobs.models import Attempt
from workers.contract.names import EPOCH_FIELD, LEASES
from workers.contract.spec import Order

log = logging.getLogger(__name__)
_WITHDRAW = """
if redis.call('hget', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('hdel', KEYS[1], ARGV[1]) end
return 0
"""


def grant(order: Order) -> bool:
    """Let the order's node find its lease. False when Redis could not be reached; saying it twice is harmless."""
    return _try(lambda: client().hset(LEASES, str(order.job), _value(order.attempt, order.token)))


def withdraw(job: int, attempt: int, token: str) -> bool:
    """Take the field of an ended attempt away, unless a later attempt has it by now.

    False when Redis could not be reached; `publish` does it then.
    """
    return _try(lambda: client().eval(_WITHDRAW, 1, LEASES, str(job), _value(attempt, token)))


def publish(epoch: int) -> bool:
    """Make the hash say what the database says; write it whole where it isn't. True when Redis had lost it.

    Raises redis.RedisError or OSError when it can't be reached.
    """
    # The hash is read first: an attempt that ends meanwhile is taken from it twice, never put back.
    found: dict[str, str] = client().hgetall(LEASES)  # type: ignore[assignment]
    live = Attempt.objects.filter(finished_at=None).order_by().values_list("job_id", "number", "token")
    wanted = {str(job): _value(number, token) for job, number, token in live}
    if EPOCH_FIELD not in found or found[EPOCH_FIELD] != str(epoch):
        with client().pipeline(transaction=True) as pipe:
            pipe.delete(LEASES)
            pipe.hset(LEASES, items=_flat({**wanted, EPOCH_FIELD: str(epoch)}))
            pipe.execute()
        return EPOCH_FIELD not in found
    gone = [job for job in found if job not in wanted and job != EPOCH_FIELD]
    changed = {job: value for job, value in wanted.items() if found.get(job) != value}
    if gone:
        client().hdel(LEASES, *gone)
    if changed:
        client().hset(LEASES, items=_flat(changed))
    return False


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
