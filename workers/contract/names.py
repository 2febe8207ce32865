"""Names that cross machines: store URIs, Redis keys, Celery queues, files of a run directory.

Does not know which machine it runs on, nor how a URI is opened.
"""

import re
from pathlib import PurePosixPath
from urllib.parse import urlsplit

STORE_SCHEME = "store"
"""`store://models/x` names a thing in the artifact store; every machine maps it to its own root (LIFTOFF_STORE)."""

NODE_STREAM = "liftoff:nodes"
INGEST_GROUP = "ingest"

# Files of a run directory (RUN_DIR). The child reads ORDER and writes below OUTPUT and CHECKPOINTS; the rest is the
# supervisor's.
ORDER_FILE = "order.json"
SPOOL_FILE = "spool.jsonl"
SHIPPED_FILE = "shipped"
HEARD_FILE = "heard"
OUTPUT_DIR = "output"
CHECKPOINTS_DIR = "checkpoints"

EVENTS_FD_ENV = "LIFTOFF_EVENTS_FD"
"""Environment variable with the file descriptor a child writes its events to; standard output when unset."""
EVENTS_PIPE_ENV = "LIFTOFF_EVENTS_PIPE"
"""Environment variable with the named pipe that several processes of a run write theirs to."""

SLUG = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
"""Names of models, datasets and nodes: lower-case letters, digits, dot, dash, underscore."""

SHARD = re.compile(r"\.(?:(?:jsonl|ndjson|txt)(?:\.gz)?|parquet)$")


_FURTHER = re.compile(r"([0-9a-f]+)n([1-9]\d*)")


def token_of(token: str, rank: int) -> str:
    """What names an attempt's run on one of its nodes: the attempt's token, and of a further node its place as well."""
    return f"{token}n{rank}" if rank else token


def fence_of(token: str) -> str:
    """The attempt's token, by which its lease is held on all of its nodes."""
    further = _FURTHER.fullmatch(token)
    return further[1] if further else token


def rank_of(token: str) -> int:
    """The place of the node among those of its attempt; 0 is the first, or the only one."""
    further = _FURTHER.fullmatch(token)
    return int(further[2]) if further else 0


class UnsafeURI(ValueError):
    """A URI that leaves the allowed roots, or a scheme that is not allowed."""


def is_shard(path: str) -> bool:
    """Whether a file of a folder holds rows: JSON lines or text, plain or gzipped, or Parquet; none that is hidden."""
    return SHARD.search(path.lower()) is not None and not any(part.startswith((".", "_")) for part in path.split("/"))


def job_stream(job_id: int) -> str:
    """Redis stream that carries one job's events."""
    return f"liftoff:job:{job_id}"


def node_queue(node: str) -> str:
    """Celery queue that one node's worker consumes."""
    return f"node.{node}"


def store_uri(*parts: str) -> str:
    """`store://` URI of the joined parts, e.g. store_uri("datasets", "ab12") -> store://datasets/ab12."""
    return f"{STORE_SCHEME}://" + "/".join(part.strip("/") for part in parts)


def resolve(uri: str, store_root: str, allowed_roots: tuple[str, ...] = ()) -> str:
    """Map a URI to what fsspec opens on this machine.

    `store://x` becomes `<store_root>/x`. A plain path or `file://` or `s3://` URI passes only below one of
    `allowed_roots` (the store root is always one). Raises UnsafeURI with a sentence otherwise.
    Symbolic links are the opener's matter: it checks `os.path.realpath` of local paths again.
    """
    split = urlsplit(uri)
    if split.scheme == STORE_SCHEME:
        relative = PurePosixPath(f"{split.netloc}{split.path}")
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            raise UnsafeURI(f"{uri!r} leaves the artifact store.")
        return f"{store_root.rstrip('/')}/{relative}"
    if split.scheme not in ("", "file", "s3"):
        raise UnsafeURI(f"{uri!r} has the scheme {split.scheme!r}; use a path, file://, s3:// or store://.")
    plain = _plain(uri)
    if ".." in PurePosixPath(plain).parts:
        raise UnsafeURI(f"{uri!r} holds '..'; name the place itself.")
    for root in (store_root, *allowed_roots):
        base = _plain(root).rstrip("/")
        if base and (plain == base or plain.startswith(base + "/")):
            return plain
    known = ", ".join(allowed_roots) or "none are set"
    raise UnsafeURI(f"{uri!r} is outside the allowed roots ({known}; LIFTOFF_ALLOWED_ROOTS sets them).")


def _plain(uri: str) -> str:
    return uri.removeprefix("file://")


START_TASK = "liftoff.start"
"""Celery task (order: dict) that starts one attempt on the node whose queue receives it."""
REVOKE_TASK = "liftoff.revoke"
"""Celery task (job: int, attempt: int, token: str): the lease is gone. Kill the child and write nothing more."""
PREEMPT_TASK = "liftoff.preempt"
"""Celery task (job: int, attempt: int): checkpoint, then end as preempted."""
RESEND_TASK = "liftoff.resend"
"""Celery task (job: int, attempt: int, token: str, after_seq: int): ship the spool again from there on."""
LEASES = "liftoff:leases"
"""Redis hash: job id → '<attempt>:<token>' of the attempt that holds the job's lease. Written by the leading
controller alone, and whole again after Redis lost it; EPOCH_FIELD tells that it is whole."""
EPOCH_FIELD = "epoch"
CANCEL_TASK = "liftoff.cancel"
"""Celery task (job: int, attempt: int) that ends one attempt on the node whose queue receives it."""


def broker_url(redis_url: str) -> str:
    """Celery's spelling of a Redis URL: unix:///p?db=0 becomes redis+socket:///p?virtual_host=0."""
    split = urlsplit(redis_url)
    if split.scheme != "unix":
        return redis_url
    db = dict(part.split("=", 1) for part in split.query.split("&") if "=" in part).get("db", "0")
    return f"redis+socket://{split.path}?virtual_host={db}"
