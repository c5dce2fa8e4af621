"""One model stage at a time on a device: a lock file per device, held while the model works.

The lock belongs to the process: whatever ends it, a kill included, gives the device back.
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
    """Where this machine's locks are; shared by every data folder, because the devices are."""
    return Path(tempfile.gettempdir()) / f"cv-assets-{getpass.getuser()}-devices"


@contextmanager
def device_lease(
    devices: list[str], on_wait: Callable[[], None] | None = None, lock_name: Callable[[str], str] = str
) -> Iterator[str]:
    """Hold one of the devices until the block ends, waiting for one to become free.

    Args:
        devices: Names such as `cpu` or `cuda:0`; the first free one is taken.
        on_wait: Called once if none is free at first.
        lock_name: What a device is called on this whole machine, whatever this process calls it.

    Yields:
        The name of the device that is held.
    """
    folder = lease_folder()
    folder.mkdir(parents=True, exist_ok=True)
    waited = False
    while True:
        for device in devices:
            with (folder / f"{lock_name(device).replace(':', '-')}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield device
                return
        if not waited and on_wait is not None:
            on_wait()
        waited = True
        time.sleep(_POLL_S)
