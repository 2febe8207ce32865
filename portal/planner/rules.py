"""The guide's rules of thumb as settings, each shown where it acts. Knows nothing of what they are applied to."""

from pydantic import BaseModel, ConfigDict, Field


class Rules(BaseModel):
    """Shares are fractions of 1; bandwidths in bytes per second."""

    model_config = ConfigDict(frozen=True)

    inference_headroom: float = Field(
        0.15, ge=0, lt=1, title="Inference headroom", description="Share of device memory kept free when serving."
    )
    memory_buffer: float = Field(
        0.20, ge=0, lt=1, title="Memory buffer", description="Share of device memory below which a training run fits."
    )
    disk_bandwidth: float = Field(
        1e9, gt=0, title="Disk", description="Slowest disk that loads a model without a warning, bytes/s (NVMe)."
    )
    fabric_bandwidth: float = Field(
        25e9, gt=0, title="Interconnect", description="Least between nodes to train 100 billion parameters (200 Gbps)."
    )
    utilisation_target: float = Field(
        0.80, gt=0, le=1, title="Utilisation target", description="Device utilisation a good run reaches."
    )
    nccl_share: float = Field(
        0.05, ge=0, lt=1, title="Collective share", description="Memory and time taken by collectives at two devices."
    )
    nccl_share_most: float = Field(
        0.12, ge=0, lt=1, title="Collective share, most", description="What that share grows to, per doubling."
    )


DEFAULT_RULES = Rules()
