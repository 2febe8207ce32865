"""A planner's answer as text for a terminal. Knows nothing of commands."""

from collections.abc import Iterator

from portal.planner.answer import Memory, Plan, PlanAnswer, Speed

GIB = 2**30
BADGES = {"fits": "FITS", "tight": "TIGHT (it fits, with less to spare than the rule asks)", "exceeds": "DOES NOT FIT"}
NAMES = {
    "weights": "weights", "lora": "LoRA", "gradients": "gradients", "optimizer": "optimizer",
    "activations": "activations", "logits": "logits", "kv_cache": "KV cache", "buffers": "buffers",
    "context": "runtime context", "reserve": "reserve",
}  # fmt: skip


def table(answer: PlanAnswer) -> str:
    """The verdict, the best plan in full, the others in a line each, and what else would do."""
    return "\n".join(_lines(answer))


def _lines(answer: PlanAnswer) -> Iterator[str]:
    yield f"{BADGES[answer.verdict]}: {answer.words}"
    if answer.parameters:
        yield f"{answer.model}: {answer.parameters:,} parameters. Ways computed: {answer.considered:,}."
    for place, plan in enumerate(answer.plans, 1):
        yield ""
        yield f"{place}. {plan.title}: {_short(plan)}"
        if place == 1:
            yield from _full(plan)
    yield from _section("What is the most", [largest.words for largest in answer.largest])
    yield from _section("What would change it", answer.instead)
    yield from _section("Not considered", answer.refused)


def _full(plan: Plan) -> Iterator[str]:
    memory = plan.memory
    yield f"   {plan.placement}"
    yield ""
    yield f"   {'Memory of the fullest device':<30}{'low':>9}{'expected':>10}{'high':>9}  GiB"
    for line in memory.lines:
        yield f"   {NAMES[line.name]:<30}{_gib(line.low):>9}{_gib(line.expected):>10}{_gib(line.high):>9}  {line.words}"
    yield f"   {'together':<30}{_gib(memory.low):>9}{_gib(memory.expected):>10}{_gib(memory.high):>9}"
    yield f"   {_room(memory)}"
    if memory.host_bytes:
        yield f"   Host memory of a node: {_gib(memory.host_bytes)} GiB."
    yield ""
    yield from (f"   {part}" for part in _speed(plan.speed))
    if plan.calibrated is not None:
        words = plan.calibrated.words
        yield f"   {words[:1].upper()}{words[1:].rstrip('.')}."
    yield from _section("Why", plan.why, "   ")
    yield from _section("Mind", plan.warnings, "   ")


def _room(memory: Memory) -> str:
    kept = 1 - memory.usable / memory.capacity
    return (
        f"The device has {_gib(memory.capacity)} GiB, {_gib(memory.usable)} with the {kept:.0%} that a rule keeps free."
    )


def _speed(speed: Speed) -> Iterator[str]:
    each = "a step" if speed.ttft_s is None else "a token of each request"
    yield f"{speed.step_s:.3g} s {each}, {speed.tokens_per_s:,.0f} tokens/s"
    if speed.ttft_s is not None:
        yield f"{speed.ttft_s:.3g} s to the first token"
    if speed.cost_per_million_tokens is not None:
        yield f"${speed.cost_per_million_tokens:,.2f} a million tokens"
    for share in speed.shares:
        yield f"{share.name:<14}{share.seconds:>9.3g} s  {share.words}"


def _short(plan: Plan) -> str:
    memory = plan.memory
    cost = plan.speed.cost_per_million_tokens
    price = f", ${cost:,.2f} a million tokens" if cost is not None else ""
    return (
        f"{memory.verdict}, {_gib(memory.expected)} of {_gib(memory.capacity)} GiB, "
        f"{plan.speed.tokens_per_s:,.0f} tokens/s{price}"
    )


def _section(title: str, sentences: tuple[str, ...] | list[str], indent: str = "") -> Iterator[str]:
    if sentences:
        yield ""
        yield f"{indent}{title}"
        yield from (f"{indent}  - {sentence}" for sentence in sentences)


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f}"
