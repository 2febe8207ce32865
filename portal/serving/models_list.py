"""The models that may be asked for, as OpenAI lists them and as the playground does. Reads; calls nobody."""

from collections import Counter
from typing import Any, NamedTuple

from portal.serving.models import Endpoint
from portal.serving.selectors import JOB_PREFIX, asleep, live_endpoints


def entries() -> list[dict[str, Any]]:
    """Each name once: those that answer, the newest launch first, then those that the next request starts again."""
    live = list(live_endpoints())
    count = Counter((endpoint.model_name, endpoint.launch) for endpoint in live)
    newest: dict[str, Endpoint] = {}
    for endpoint in live:
        newest.setdefault(endpoint.model_name, endpoint)
    ready = [_entry(one, "ready", count[name, one.launch]) for name, one in newest.items()]
    return ready + [_entry(one, "asleep", 0) for one in asleep() if one.model_name not in newest]


class Choice(NamedTuple):
    """A launch that may be asked: what to send as `model`, and in words what that is."""

    name: str
    words: str
    launch: int


def choices() -> list[Choice]:
    """Every launch that answers, the newest first, and those that can be woken."""
    launches: dict[int, Endpoint] = {}
    for endpoint in live_endpoints():
        launches.setdefault(endpoint.launch, endpoint)
    found: dict[str, Choice] = {}
    for launch, endpoint in launches.items():
        name = f"{JOB_PREFIX}{launch}" if endpoint.model_name in found else endpoint.model_name
        found[name] = Choice(name, f"{endpoint.model_name} · {_words(endpoint)}", launch)
    for endpoint in asleep():
        words = f"{endpoint.model_name} · {_words(endpoint)}, asleep"
        found.setdefault(endpoint.model_name, Choice(endpoint.model_name, words, endpoint.launch))
    return list(found.values())


def _words(endpoint: Endpoint) -> str:
    quantization = endpoint.attempt.job.spec.get("quantization", "none")
    return f"launch #{endpoint.launch}" + (f", {quantization}" if quantization != "none" else "")


def _entry(endpoint: Endpoint, state: str, replicas: int) -> dict[str, Any]:
    """OpenAI's fields, and the launch, whether it answers now, and in how many copies."""
    return {
        "id": endpoint.model_name,
        "object": "model",
        "created": int(endpoint.ready_at.timestamp()),
        "owned_by": endpoint.attempt.job.owner.get_username(),
        "job": endpoint.launch,
        "state": state,
        "replicas": replicas,
    }
