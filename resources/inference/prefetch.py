"""An iterator that runs ahead of its consumer, in a thread."""

import queue
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Runs a generator in a thread of its own, a few items ahead; its errors are raised where the items are consumed.

    The caller must close it, which ends the thread.

    Args:
        source: Yields the items.
        depth: Maximum number of items in the queue.
    """

    _END = object()

    def __init__(self, source: Generator[T, None, None], depth: int) -> None:
        self._items: queue.Queue[Any] = queue.Queue(maxsize=depth)
        self._source, self._is_closed = source, threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._filling = self._pool.submit(self._fill)

    def __iter__(self) -> Iterator[T]:
        while (item := self._items.get()) is not self._END:
            yield item
        self._filling.result()

    def close(self) -> None:
        """Stop reading the source and end the thread; items that were not consumed are dropped."""
        self._is_closed.set()
        self._pool.shutdown(wait=True)

    def _fill(self) -> None:
        try:
            with closing(self._source):
                for item in self._source:
                    if not self._put(item):
                        return
        finally:
            self._put(self._END)

    def _put(self, item: object) -> bool:
        """Put an item into the queue; False if the prefetch was closed first."""
        while not self._is_closed.is_set():
            try:
                self._items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
