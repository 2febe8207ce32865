"""What was planned and how long it took, in words. Knows no record."""

from portal.planner.devices import DEVICES

GOALS = {"lora": "LoRA", "qlora": "QLoRA", "full": "full fine-tune", "infer": "serving"}
SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def device_title(name: str) -> str:
    """A device of the catalogue by its title; any other as it is called."""
    return DEVICES[name].title if name in DEVICES else name


def method_words(key: str) -> str:
    """'lora/bf16/zero2' → 'LoRA · bf16 · ZeRO 2'."""
    goal, *rest = key.split("/")
    words = [part.replace("zero", "ZeRO ") if part.startswith("zero") else part for part in rest]
    return " · ".join([GOALS.get(goal, goal), *words])


def step(seconds: float) -> str:
    """Seconds in the unit that reads best: 0.0123 → '12.3 ms'."""
    size, unit = next(((size, unit) for size, unit in SECONDS if seconds >= size * 0.9995), SECONDS[-1])
    return f"{seconds / size:.3g} {unit}"
