"""What was planned, in words. Knows no record."""

from portal.planner.devices import DEVICES

GOALS = {"lora": "LoRA", "qlora": "QLoRA", "full": "full fine-tune", "partial": "some layers", "infer": "serving"}


def device_title(name: str) -> str:
    """A device of the catalogue by its title; any other as it is called."""
    return DEVICES[name].title if name in DEVICES else name


def method_words(key: str) -> str:
    """'lora/bf16/zero2' → 'LoRA · bf16 · ZeRO 2'."""
    goal, *rest = key.split("/")
    words = [part.replace("zero", "ZeRO ") if part.startswith("zero") else part for part in rest]
    return " · ".join([GOALS.get(goal, goal), *words])
