"""What a plan names, resolved: model profiles and built-in models, real nodes and built-in hardware.

Writes nothing. Built-in names resolve without a database that can be read. Knows nothing of what is planned with them.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, TypeVar

from django.conf import settings
from django.db import Error

from portal.catalog.models import ModelProfile
from portal.fleet.models import Accelerator, Node
from portal.fleet.selectors import is_online, nodes
from portal.planner import clusters, devices, families, models
from portal.planner.hardware import DeviceSpec, Fleet, NodeGroup
from portal.planner.shapes import ModelShape
from workers.contract.errors import Refused, unknown_name
from workers.contract.resources import Resources

log = logging.getLogger(__name__)
Read = TypeVar("Read")

WHOLE_FLEET = "fleet"
"""The hardware that is every node that is online and not draining."""
GIB = 2**30


def model_names() -> list[str]:
    """Profiles first, then the built-in models that no profile hides."""
    profiles = stored(lambda: list(ModelProfile.objects.values_list("name", flat=True))) or []
    return list(dict.fromkeys([*profiles, *models.names()]))


def hardware_names() -> list[str]:
    """'fleet', the real nodes, then the built-in hardware."""
    return list(dict.fromkeys([WHOLE_FLEET, *_node_names(), *clusters.names()]))


def resolve_model(name: str, config: dict[str, Any] | None = None) -> ModelShape:
    """The shape of `config` (a parsed config.json) if given, else of the profile `name`, else of the built-in one.

    Raises Refused: at 'model' with the nearest names, or at 'config' where the model's own config can't be planned.
    """
    if config is not None:
        return families.shape_from_config(config, name)
    profile = stored(lambda: ModelProfile.objects.filter(name=name).first())
    if profile is not None:
        return shape_of(profile)
    if name in models.MODELS:
        return models.shape(name)
    error = unknown_name("model", "model", name, model_names())
    raise Refused([error._replace(message=error.message + _only_built_in())])


def shape_of(profile: ModelProfile) -> ModelShape:
    """A profile's shape, by its own config, or by what its GGUF header says. Raises Refused at 'model'."""
    try:
        lies = {name: value for name, value in profile.config.items() if name == "quantization_config"}
        by_header = profile.source == ModelProfile.Source.GGUF or profile.config == lies
        config = profile.config
        if by_header:
            config = families.config_from_facts(_facts(profile), profile.config) | lies
        return families.shape_from_config(config, profile.name)
    except Refused as refused:
        why = " ".join(error.message.removeprefix("model: ") for error in refused.errors)
        raise Refused.at("model", profile.name, f"model: {profile.name!r} can't be planned: {why}") from None


def resolve_hardware(name: str, count: int = 1) -> Fleet:
    """The fleet, one real node, or built-in hardware of `count` nodes.

    Raises Refused: at 'hardware' with the nearest names, or where no node is online; at 'nodes' where a real node is
    asked for several times.
    """
    if name == WHOLE_FLEET:
        found = stored(lambda: [node for node in nodes() if _takes_jobs(node)])
        if not found:
            raise Refused.at(
                "hardware", name, "hardware: no node is online; start a worker, or name built-in hardware."
            )
        return _once(name, count, found)
    node = stored(lambda: nodes().filter(name=name).first())
    if node is not None:
        return _once(name, count, [node])
    try:
        return clusters.fleet(name, count)
    except Refused:
        real = [WHOLE_FLEET, *_node_names()]
        if near := get_close_matches(name, real, n=3, cutoff=0.7):
            raise Refused([unknown_name("hardware", "hardware", name, near)]) from None
        raise


def fleet_for(resources: Resources) -> Fleet:
    """The devices that a job with these wishes may get: one node of its own choice, or all that could take it.

    Raises Refused at 'resources'.
    """
    chosen = [
        node
        for node in nodes()
        if (node.name == resources.node if resources.node else _takes_jobs(node))
        and resources.labels.items() <= node.labels.items()
    ]
    fleet = fleet_of(resources.node or WHOLE_FLEET, chosen, lambda device: answers(device, resources))
    if not fleet.groups:
        raise Refused.at("resources", None, "resources: no node that is online has the devices this asks for.")
    return fleet


def fleet_of(name: str, chosen: Iterable[Node], wanted: Callable[[Accelerator], bool] = lambda _: True) -> Fleet:
    """Real nodes as the planner sees them, like ones in one group. No fabric: a job runs on one node."""
    alike: dict[tuple[str, int, int], list[tuple[Node, DeviceSpec]]] = defaultdict(list)
    for node in chosen:
        kinds: dict[tuple[str, int], list[DeviceSpec]] = defaultdict(list)
        for accelerator in node.accelerators.all():
            if accelerator.present and wanted(accelerator):
                device = device_of(accelerator, node)
                kinds[device.name, device.memory_bytes].append(device)
        for (device_name, memory_bytes), like in kinds.items():
            alike[device_name, memory_bytes, len(like)].append((node, like[0]))
    return Fleet(name, tuple(_group(members, count) for (_, _, count), members in alike.items()))


def device_of(accelerator: Accelerator, node: Node) -> DeviceSpec:
    """The device's data sheet, with the memory it reports; a CPU is described by its cores."""
    if accelerator.kind == Accelerator.Kind.CPU:
        parts = sum(each.kind == Accelerator.Kind.CPU and each.present for each in node.accelerators.all())
        cores = max(1, node.cores // max(1, parts))
        cpu = devices.of_cpu(accelerator.name, cores, accelerator.memory_bytes, accelerator.compute_capability)
        # Processors differ more than cards of one name do, and in how many of their cores a node has.
        name = f"{accelerator.name or 'CPU'}, {cores} cores"
        return replace(cpu, name=name, price_per_hour=settings.LIFTOFF_PRICE_PER_HOUR)
    return devices.of_gpu(accelerator.name, accelerator.memory_bytes, _number(accelerator.compute_capability))


def _group(members: list[tuple[Node, DeviceSpec]], count: int) -> NodeGroup:
    """Like nodes; where they differ in memory or disk, the least of them."""
    ram = [node.ram_bytes for node, _ in members if node.ram_bytes]
    disk = [node.disk_read_bytes_per_s for node, _ in members if node.disk_read_bytes_per_s]
    names = tuple(node.name for node, _ in members)
    return NodeGroup(
        name=names[0] if len(names) == 1 else f"{len(names)} nodes",
        device=members[0][1],
        nodes=len(members),
        devices=count,
        ram_bytes=min(ram, default=0),
        disk_bandwidth=min(disk, default=None),
        names=names,
        labels=members[0][0].labels if len(names) == 1 else {},
    )


def _once(name: str, count: int, found: list[Node]) -> Fleet:
    if count != 1:
        raise Refused.at(
            "nodes", count, f"nodes: {count} can't be asked of {name!r}, which is real; use 1, or built-in hardware."
        )
    fleet = fleet_of(name, found)
    if not fleet.groups:
        raise Refused.at("hardware", name, f"hardware: {name!r} has reported no device; start its worker.")
    return fleet


def _takes_jobs(node: Node) -> bool:
    return node.state != Node.State.DRAINING and is_online(node)


def answers(device: Accelerator, resources: Resources) -> bool:
    """Whether the device is of the kind and size that a job wishes."""
    return resources.device_kind in ("any", device.kind) and device.memory_bytes >= resources.min_memory_gib * GIB


def _node_names() -> list[str]:
    return stored(lambda: list(Node.objects.order_by("name").values_list("name", flat=True))) or []


def _number(capability: str) -> float | None:
    try:
        return float(capability)
    except ValueError:
        return None


def _facts(profile: ModelProfile) -> dict[str, Any]:
    columns = (
        "architecture", "layers", "hidden_size", "heads", "kv_heads", "intermediate_size", "vocab_size",
        "context_length", "experts", "tied_embeddings", "parameters", "dtype",
    )  # fmt: skip
    return {column: getattr(profile, column) for column in columns}


def stored(read: Callable[[], Read]) -> Read | None:
    """What the database has; None where it can't be read or has no tables yet."""
    try:
        return read()
    except Error as error:
        log.debug("the database can't be read: %s", error)
        return None


def _only_built_in() -> str:
    """What a refusal adds where a name could have been stored, had the database been there."""
    readable = stored(lambda: ModelProfile.objects.exists()) is not None
    return "" if readable else " The database can't be read, so only built-in names are known."
