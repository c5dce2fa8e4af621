"""Device leases: one model stage at a time on a device, by a lock file per device that is held while the model runs.

The lock belongs to the process: when the process ends, even by a kill, the device is released.
"""

import fcntl
import getpass
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.2


def lease_folder() -> Path:
    """Folder of this machine's lock files; all data folders share it, because they share the devices."""
    return Path(tempfile.gettempdir()) / f"cv-assets-{getpass.getuser()}-devices"


@contextmanager
def device_lease(
    devices: list[str], on_wait: Callable[[], None] | None = None, lock_name: Callable[[str], str] = str
) -> Iterator[str]:
    """Hold the first free device until the block ends; wait while other processes hold all devices.

    Args:
        devices: Names such as `cpu` or `cuda:0`, in order of preference.
        on_wait: Called once if no device is free at first.
        lock_name: Maps a device to its name on this machine, which is the same in every process.

    Yields:
        The name of the held device.
    """
    folder = lease_folder()
    folder.mkdir(parents=True, exist_ok=True)
    has_waited = False
    while True:
        for device in devices:
            with (folder / f"{lock_name(device).replace(':', '-')}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield device
                return
        if not has_waited and on_wait is not None:
            on_wait()
        has_waited = True
        time.sleep(_POLL_S)
