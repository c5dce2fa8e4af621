"""How sensors learn of news at once while idling costs little: they wait inside a look, and for file-system events."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import watchfiles

logger = logging.getLogger(__name__)

# Dagster begins a look every 5 s at most, and beginning one costs more than waiting in it: news is noticed by the look
# that is still waiting. One that takes a minute would be ended.
LONGEST_WAIT_S = 50.0
# How often to ask where nobody says that it is time to. A process that sleeps has lost its caches, so that asking costs
# many times what it costs in a loop; while nothing works, hardly anything happens that nobody says.
WHILE_WORKING_S, WHILE_IDLE_S = 0.5, 4.0

_bell = threading.Condition()
_rung = [0]
_added = [0]  # partitions that this process has added: Dagster keeps no event of them


def wait_for(has_happened: Callable[[], bool], longest_s: float, every_s: Callable[[], float]) -> bool:
    """Ask now and then until something has happened, the time is over, or the server is being stopped.

    Args:
        has_happened: What is asked.
        longest_s: How long to wait.
        every_s: After how many seconds to ask again where nobody says that it is time to, as `ask_now` does.

    Returns:
        Whether it has happened.
    """
    _ring_at_the_end()
    until = time.monotonic() + longest_s
    while True:
        rung = _rung[0]
        if has_happened():
            return True
        left_s = until - time.monotonic()
        if left_s <= 0 or is_stopping():
            return False
        with _bell:
            if _rung[0] == rung:  # else somebody has said so while we asked
                _bell.wait(min(every_s(), left_s))


def ask_now() -> None:
    """Let all who wait in this process ask at once."""
    with _bell:
        _rung[0] += 1
        _bell.notify_all()


def tell_added(count: int) -> None:
    """Let `added` change: partitions were added, of which there is no event."""
    _added[0] += count
    ask_now()


def added() -> int:
    """How many partitions the sensors of this process have added."""
    return _added[0]


def is_stopping() -> bool:
    """Whether the server that evaluates the sensors is being stopped: its main thread has ended then."""
    return not threading.main_thread().is_alive()


@cache
def _ring_at_the_end() -> None:
    """Let those who wait know at once that the server is being stopped."""

    def ring() -> None:
        threading.main_thread().join()
        ask_now()

    threading.Thread(target=ring, name="bell-at-the-end", daemon=True).start()


class FolderWatch:
    """Learns from the file system that something has changed in folders, from its making on.

    Events do not reach everywhere (network shares) and are not unlimited, so whoever asks must also look now and then.

    Args:
        folders: Watched with all that is in them; those that are not there now are not.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._found = self._identities()
        self._is_stopped = threading.Event()
        self.has_events = True
        """Whether there is hope for events: False once the system has refused them."""
        self._has_changed = threading.Event()
        threading.Thread(target=self._watch, name="folder-watch", daemon=True).start()

    @property
    def is_outdated(self) -> bool:
        """Whether a folder has come, gone or become another since, as by mounting: of that one there are no events."""
        return self._identities() != self._found

    def stop(self) -> None:
        """Watch no longer."""
        self._is_stopped.set()

    def is_set(self) -> bool:
        """Whether to stop, as watchfiles asks it."""
        return self._is_stopped.is_set() or is_stopping()

    @property
    def has_change(self) -> bool:
        """Whether there is a change that `take_change` would tell of."""
        return self._has_changed.is_set()

    def take_change(self) -> bool:
        """Whether anything has changed since this was last asked."""
        has_changed = self._has_changed.is_set()
        self._has_changed.clear()
        return has_changed

    def _identities(self) -> tuple[tuple[int, int] | None, ...]:
        found: list[tuple[int, int] | None] = []
        for folder in self.folders:
            try:
                stat = folder.stat()
                found.append((stat.st_dev, stat.st_ino))
            except OSError:
                found.append(None)
        return tuple(found)

    def _watch(self) -> None:
        try:
            changes = watchfiles.watch(
                *(folder for folder in self.folders if folder.is_dir()),
                watch_filter=None,
                # In ms. At each step it asks whether to stop, which at its own default of 50 is felt while idling.
                step=250,
                debounce=500,
                stop_event=self,  # type: ignore[arg-type]  # its is_set is all that is asked
                raise_interrupt=False,
                force_polling=False,
                ignore_permission_denied=True,
            )
            for _ in changes:
                self._has_changed.set()
                ask_now()
        except (OSError, RuntimeError) as error:
            self.has_events = False
            logger.warning("File-system events are not to be had, so the folders are looked at now and then: %s", error)
