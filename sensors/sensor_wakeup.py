"""Wake-up of waiting sensors: a tick waits for changes, so that sensors react at once and idling costs little."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import watchfiles

logger = logging.getLogger(__name__)

# Dagster starts a tick every 5 s at most, and starting one costs more than waiting inside it: the tick that is still
# waiting sees a change first. Dagster ends a tick that takes a minute.
MAX_TICK_S = 50.0

# How often to check for changes without a wake-up. A process that sleeps loses its CPU caches, so a check after a sleep
# costs many times what it costs in a loop; while no run is active, hardly any change comes without a wake-up.
BUSY_CHECK_INTERVAL_S, IDLE_CHECK_INTERVAL_S = 0.5, 4.0
_wakeup = threading.Condition()
_wakeup_count = [0]
_added_partition_count = [0]


def wait_for_change(has_changed: Callable[[], bool], timeout_s: float, interval_s: Callable[[], float]) -> bool:
    """Wait until something has changed, the timeout expires or the server stops.

    Args:
        has_changed: Checks whether it has changed.
        timeout_s: How long to wait.
        interval_s: Returns how many seconds to wait between two checks; `wake_sensors` ends the wait.

    Returns:
        Whether it has changed.
    """
    _start_shutdown_wakeup()
    deadline = time.monotonic() + timeout_s
    while True:
        wakeup_count = _wakeup_count[0]
        if has_changed():
            return True
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0 or is_stopping():
            return False
        with _wakeup:
            if _wakeup_count[0] == wakeup_count:  # otherwise a wake-up came during the check
                _wakeup.wait(min(interval_s(), remaining_s))


def wake_sensors() -> None:
    """Make all waiting sensors of this process check for changes now."""
    with _wakeup:
        _wakeup_count[0] += 1
        _wakeup.notify_all()


def count_added_partitions(count: int) -> None:
    """Count partitions that a sensor has added, and wake the sensors: Dagster records no event for them."""
    _added_partition_count[0] += count
    wake_sensors()


def added_partition_count() -> int:
    """Number of partitions that the sensors of this process have added."""
    return _added_partition_count[0]


def is_stopping() -> bool:
    """Whether the server that evaluates the sensors is stopping: its main thread has ended."""
    return not threading.main_thread().is_alive()


@cache
def _start_shutdown_wakeup() -> None:
    """Start the thread that wakes the sensors when the server stops."""

    def wake_at_shutdown() -> None:
        threading.main_thread().join()
        wake_sensors()

    threading.Thread(target=wake_at_shutdown, name="shutdown-wakeup", daemon=True).start()


class FolderWatcher:
    """Watches folders for changes by file-system events, from its construction on.

    Events do not exist on every file system (network shares) and their number is limited, so the folders must also be
    listed from time to time.

    Args:
        folders: Folders to watch recursively; those that do not exist now are not watched.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._watched_identities = self._identities()
        self._is_stopped = threading.Event()
        self.has_events = True
        """Whether events can be expected: False once the system has refused them."""
        self._has_changed = threading.Event()
        threading.Thread(target=self._watch, name="folder-watcher", daemon=True).start()

    @property
    def is_outdated(self) -> bool:
        """Whether a folder was created, deleted or replaced (by a mount, for instance), so that it gives no events."""
        return self._identities() != self._watched_identities

    def stop(self) -> None:
        """Stop watching."""
        self._is_stopped.set()

    def is_set(self) -> bool:
        """Whether to stop: the interface of the `stop_event` of watchfiles."""
        return self._is_stopped.is_set() or is_stopping()

    @property
    def has_change(self) -> bool:
        """Whether `take_change` would return True."""
        return self._has_changed.is_set()

    def take_change(self) -> bool:
        """Reset the change flag; returns whether it was set."""
        has_changed = self._has_changed.is_set()
        self._has_changed.clear()
        return has_changed

    def _identities(self) -> tuple[tuple[int, int] | None, ...]:
        """Device and inode of each folder; None for a folder that does not exist."""
        identities: list[tuple[int, int] | None] = []
        for folder in self.folders:
            try:
                stat = folder.stat()
                identities.append((stat.st_dev, stat.st_ino))
            except OSError:
                identities.append(None)
        return tuple(identities)

    def _watch(self) -> None:
        try:
            changes = watchfiles.watch(
                *(folder for folder in self.folders if folder.is_dir()),
                watch_filter=None,
                # In ms; it checks `is_set` at each step. The default of 50 costs noticeable CPU time while idling.
                step=250,
                debounce=500,
                stop_event=self,  # type: ignore[arg-type]  # only its is_set is called
                raise_interrupt=False,
                force_polling=False,
                ignore_permission_denied=True,
            )
            for _ in changes:
                self._has_changed.set()
                wake_sensors()
        except (OSError, RuntimeError) as error:
            self.has_events = False
            logger.warning("File-system events are unavailable, so the folders are listed periodically: %s", error)
