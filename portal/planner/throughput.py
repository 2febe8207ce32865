"""How fast a method runs at a place, and what it costs: tokens per second, seconds of a step or token, US dollars.

Knows nothing of bytes that fit, nor of earlier runs; the seconds are portal.planner.training's and decoding's.
"""

from portal.planner import decoding, training
from portal.planner.answer import Share, Speed
from portal.planner.hardware import Fabric, NodeGroup
from portal.planner.links import Wiring
from portal.planner.request import Method, Workload
from portal.planner.rules import DEFAULT_RULES, Rules
from portal.planner.shapes import ModelShape


def estimate(
    shape: ModelShape,
    workload: Workload,
    method: Method,
    group: NodeGroup,
    nodes: int,
    fabric: Fabric | None,
    rules: Rules = DEFAULT_RULES,
) -> Speed:
    """Speed of `method` on `nodes` nodes of `group`, its devices shared evenly by the nodes.

    Tokens per second are over all devices: trained tokens, or generated ones of `workload.concurrency` running
    requests. Raises ValueError for several nodes that no fabric joins.
    """
    wiring = Wiring(group.device, nodes, max(1, -(-method.devices // nodes)), fabric)
    ttft_s = None
    shares: tuple[Share, ...]
    if workload.goal == "infer":
        pace = decoding.pace(shape, workload, method, wiring, rules)
        shares, ttft_s, tokens = pace.shares, pace.ttft_s, workload.concurrency
    else:
        step = training.step(shape, workload, method, wiring, rules)
        shares, tokens = step.shares, step.tokens
    step_s = sum(share.seconds for share in shares)
    per_s = tokens / step_s
    price = group.device.price_per_hour
    per_token = price * method.devices / 3600 / per_s if price is not None else None
    asked = workload.trained_tokens if workload.goal != "infer" else 0
    return Speed(
        step_s=step_s,
        tokens_per_s=per_s,
        ttft_s=ttft_s,
        communication_share=sum(share.seconds for share in shares if share.name == "communication") / step_s,
        cost_per_million_tokens=per_token * 1e6 if per_token is not None else None,
        total_s=asked / per_s if asked else None,
        total_cost=asked * per_token if asked and per_token is not None else None,
        shares=shares,
    )
