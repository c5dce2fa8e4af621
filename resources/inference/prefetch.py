"""An iterator that is worked through ahead of its consumer."""

import queue
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Runs an iterator in a thread of its own, a few items ahead; its error is raised where the items are consumed.

    To be closed, which ends the thread.

    Args:
        source: Gives the items.
        depth: How many items may wait.
    """

    _END = object()

    def __init__(self, source: Generator[T, None, None], depth: int) -> None:
        self._items: queue.Queue[Any] = queue.Queue(maxsize=depth)
        self._source, self._stopped = source, threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._filling = self._pool.submit(self._fill)

    def __iter__(self) -> Iterator[T]:
        while (item := self._items.get()) is not self._END:
            yield item
        self._filling.result()

    def close(self) -> None:
        """Give up what is still to come."""
        self._stopped.set()
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
        while not self._stopped.is_set():
            try:
                self._items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
