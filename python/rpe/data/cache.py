"""A small least-recently-used store of arrays, bounded in bytes, for label maps that are slow to build.

One per data set and process: a DataLoader worker starts with an empty one where processes are spawned.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray


class ArrayCache:
    """Keep arrays by key until their bytes exceed `max_bytes`; then the least recently used go first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self._arrays: OrderedDict[str, NDArray[np.int32]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[type[ArrayCache], tuple[int]]:
        return ArrayCache, (self.max_bytes,)

    def get(self, key: str) -> NDArray[np.int32] | None:
        """The array, or None."""
        with self._lock:
            array = self._arrays.get(key)
            if array is not None:
                self._arrays.move_to_end(key)
            return array

    def put(self, key: str, array: NDArray[np.int32]) -> None:
        """Keep the array, unless it alone is over the bound. It must not be written to afterwards."""
        with self._lock:
            if key in self._arrays or array.nbytes > self.max_bytes:
                return
            self._arrays[key] = array
            self.num_bytes += array.nbytes
            while self.num_bytes > self.max_bytes:
                self.num_bytes -= self._arrays.popitem(last=False)[1].nbytes
