"""The scheduler over a synthetic week on a large fleet, beside FIFO and plain EASY backfill in the same simulator."""
