"""What was read lately is not read again: answers of the database kept for a moment in one process.

Only for what may be a moment old. Knows nothing of what is read.
"""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from channels.db import database_sync_to_async
from django.conf import settings

Key = TypeVar("Key")
Value = TypeVar("Value")
MOST = 2000


class Lately(Generic[Key, Value]):
    """Keeps what `read` found for LIFTOFF_GATEWAY_REMEMBERS_S; nothing found is not kept."""

    def __init__(self, read: Callable[[Key], Value]) -> None:
        self._read = read
        self._kept: dict[Key, tuple[float, Value]] = {}

    async def get(self, key: Key) -> Value:
        """What is kept, else what is read now."""
        kept = self._kept.get(key)
        if kept is not None and time.monotonic() < kept[0]:
            return kept[1]
        return await self.read(key)

    async def read(self, key: Key) -> Value:
        """What is there now."""
        value: Value = await database_sync_to_async(self._read)(key)
        if len(self._kept) >= MOST:
            self._kept.clear()
        if value:
            self._kept[key] = (time.monotonic() + settings.LIFTOFF_GATEWAY_REMEMBERS_S, value)
        else:
            self._kept.pop(key, None)
        return value
