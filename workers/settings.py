"""How a worker is set up: environment variables read once, into one frozen dataclass.

Doesn't know what the settings are used for.
"""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.contract.names import SLUG
from workers.contract.stopping import STOP_GRACE_S

MOST_CPU_DEVICES = 64


class SettingsError(ValueError):
    """An environment variable is missing or wrong; the message names it and what would work."""


@dataclass(frozen=True)
class WorkerSettings:
    """Everything a worker process is told from outside."""

    redis_url: str
    """Broker, event streams and heartbeats: redis://, rediss:// or unix:// URL."""
    node: str
    """Name of this node, a slug; its Celery queue is `node.<name>`."""
    address: str
    """Host name or IP address under which the portal reaches models served here."""
    home: Path
    """Run directories, caches and the default artifact store; absolute."""
    store: str
    """Root of the artifact store: file:///… or s3://…"""
    allowed_roots: tuple[str, ...]
    """Other places that orders may name inputs from."""
    store_is_afar: bool
    """A file:// store is a mount: what is read from it is copied first."""
    metrics_host: str
    metrics_port: int
    """Prometheus exporter; port 0 takes a free one."""
    stop_grace_s: float = STOP_GRACE_S
    """Seconds a run has to save its work when the worker stops or another job takes its devices."""
    spool_limit_bytes: int = 2 * 1024**3
    """A run whose events and log take more is ended."""

    @property
    def runs_dir(self) -> Path:
        """Run directories of this node: <home>/runs/<node>/<job>-<attempt>."""
        return self.home / "runs" / self.node

    @property
    def cache_dir(self) -> Path:
        return self.home / "cache"

    @property
    def artifact_cache_dir(self) -> Path:
        """What the node fetched from an artifact store afar."""
        return self.cache_dir / "artifacts"


def from_environment(environment: Mapping[str, str]) -> WorkerSettings:
    """Read the LIFTOFF_* variables and REDIS_URL. Raises SettingsError."""
    redis_url = environment.get("REDIS_URL", "")
    if not redis_url:
        raise SettingsError("REDIS_URL is not set; give the portal's Redis, e.g. REDIS_URL=redis://portal-host:6379/0.")
    if redis_url.split("://")[0] not in ("redis", "rediss", "unix"):
        raise SettingsError(
            f"REDIS_URL: {_without_password(redis_url)!r} must start with redis://, rediss:// or unix://."
        )
    node = environment.get("LIFTOFF_NODE_NAME") or slugify(socket.gethostname())
    if not SLUG.fullmatch(node):
        raise SettingsError(
            f"LIFTOFF_NODE_NAME: {node!r} is not a name; use lower-case letters, digits, dots, dashes and underscores."
        )
    home = Path(environment.get("LIFTOFF_HOME") or "var").resolve()
    return WorkerSettings(
        redis_url=redis_url,
        node=node,
        address=environment.get("LIFTOFF_NODE_ADDRESS") or "127.0.0.1",
        home=home,
        store=environment.get("LIFTOFF_STORE") or f"file://{home / 'store'}",
        allowed_roots=_listed(environment.get("LIFTOFF_ALLOWED_ROOTS", "")),
        store_is_afar=_flag("LIFTOFF_STORE_IS_AFAR", environment.get("LIFTOFF_STORE_IS_AFAR") or "0"),
        metrics_host=environment.get("LIFTOFF_METRICS_HOST") or "127.0.0.1",
        metrics_port=_port("LIFTOFF_METRICS_PORT", environment.get("LIFTOFF_METRICS_PORT") or "9400"),
        stop_grace_s=_number(
            "LIFTOFF_STOP_GRACE_S", environment.get("LIFTOFF_STOP_GRACE_S") or str(STOP_GRACE_S), 0, 3600
        ),
        spool_limit_bytes=int(
            1024**2 * _number("LIFTOFF_SPOOL_LIMIT_MIB", environment.get("LIFTOFF_SPOOL_LIMIT_MIB") or "2048", 1, 10**6)
        ),
    )


def slugify(hostname: str) -> str:
    """A host name as a node name: lower case, other characters become dashes, at most 63."""
    slug = re.sub(r"[^a-z0-9._-]+", "-", hostname.lower()).strip("-._")[:63]
    return slug or "node"


def labels_from(text: str) -> dict[str, str]:
    """'a=b, c=d' as a dictionary. Raises SettingsError."""
    labels = {}
    for part in _listed(text):
        key, sign, value = part.partition("=")
        if not sign or not key.strip():
            raise SettingsError(f"LIFTOFF_NODE_LABELS: {part!r} is not key=value; write e.g. zone=a,disk=nvme.")
        labels[key.strip()] = value.strip()
    return labels


def cpu_devices_from(text: str) -> int:
    """'' or '2': how many devices a node without GPUs makes of its CPU. Raises SettingsError."""
    if text and not (text.isdecimal() and 1 <= int(text) <= MOST_CPU_DEVICES):
        raise SettingsError(f"LIFTOFF_CPU_DEVICES: {text!r} is no whole number from 1 to {MOST_CPU_DEVICES}.")
    return int(text or 1)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _flag(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise SettingsError(f"{name}: {text!r} is neither 0 nor 1.")
    return text == "1"


def _port(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise SettingsError(f"{name}: {text!r} is not a port; use a number from 0 to 65535.")
    return int(text)


def _number(name: str, text: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise SettingsError(f"{name}: {text!r} does not work; use a number from {least:g} to {most:g}.")
    return number


def _without_password(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//", url)
