"""How a model's config says that its weights are quantized already, and in which layout.

Of the layouts that there are it knows the two that a quantize job writes. Knows nothing of who can load them.
"""

from typing import Any, Literal, NamedTuple

Layout = Literal["gptq", "awq"]
TITLES: dict[Layout, str] = {"gptq": "GPTQ", "awq": "AWQ"}
AUTO_ROUND_GPTQ = "auto_round:auto_gptq"
"""GPTQ's layout under AutoRound's name, which Transformers loads on any device."""
AWQ_CAPABILITY = 7.5
"""Least CUDA compute capability of the kernels that read AWQ."""


class Stored(NamedTuple):
    """Quantized weights as they lie: `bits` each, with a scale and a zero point for each `group` of them."""

    layout: Layout
    bits: int
    group: int

    @property
    def brief(self) -> str:
        """'GPTQ, 4 bits'."""
        return f"{TITLES[self.layout]}, {self.bits} bits"

    @property
    def words(self) -> str:
        """'GPTQ, 4 bits in groups of 128'."""
        return f"{self.brief} in groups of {self.group}"

    @property
    def config(self) -> dict[str, Any]:
        """The `quantization_config` by which loaders know it."""
        numbers = {"bits": self.bits, "group_size": self.group}
        if self.layout == "awq":
            return {"quant_method": "awq", **numbers, "zero_point": True}
        return {"quant_method": "auto-round", "packing_format": AUTO_ROUND_GPTQ, **numbers, "sym": True}


def stored_as(config: dict[str, Any]) -> Stored | None:
    """What a parsed config.json says of its weights; None for numbers as they were, or a layout that isn't known."""
    said = config.get("quantization_config")
    if not isinstance(said, dict):
        return None
    method = said.get("quant_method")
    if method == "auto-round":
        method = "awq" if "awq" in str(said.get("packing_format")) else "gptq"
    bits, group = said.get("bits", said.get("w_bit")), said.get("group_size", said.get("q_group_size"))
    if method not in TITLES or bits not in (2, 3, 4, 8) or not isinstance(group, int) or not 8 <= group <= 1024:
        return None
    return Stored(method, bits, group)
