"""Device leases: one model stage at a time on a device, by a lock file per device that is held while the model runs.

The lock belongs to the process: when the process ends, even by a kill, the device is released.
"""

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

import psutil

from resources.errors import PipelineError
from resources.storage.locks import open_lock_file

_POLL_S = 0.2
_MAX_COMMAND_LENGTH = 100  # the command of a run contains its whole configuration


@dataclass(frozen=True)
class LeaseHolder:
    """The process that holds a device.

    Attributes:
        pid: Its process id.
        data_folder: The data folder of its pipeline.
        since_utc: Since when it holds the device, in ISO format.
    """

    pid: int
    data_folder: str
    since_utc: str


def user_cache_folder() -> Path:
    """Folder of this user for what all data folders of this machine share."""
    cache_home = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache_home) if cache_home else Path.home() / ".cache") / "cv-assets"


def lease_folder() -> Path:
    """Create and check the folder of this user's lock files; all data folders share it, because they share the devices.

    Raises:
        PipelineError: The folder is a link or belongs to another user, who could hold the devices.
    """
    folder = Path(tempfile.gettempdir()) / f"cv-assets-{os.geteuid()}-devices"  # where the user has no writable home
    with suppress(OSError, RuntimeError):
        home_folder = user_cache_folder() / "devices"
        home_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.access(home_folder, os.W_OK):
            folder = home_folder
    if not folder.is_symlink():
        folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise PipelineError(
            f"The folder {folder} of the device locks is a link or belongs to another user: remove it, or set "
            "XDG_CACHE_HOME to a folder of your own."
        )
    folder.chmod(0o700)
    return folder


def read_lease_holder(device: str) -> LeaseHolder | None:
    """Read which process holds a device; None if none does, or if it is just taking the device.

    Args:
        device: Name of the device on this machine.
    """
    with open_lock_file(_lock_path(lease_folder(), device)) as lock:
        text = lock.read()
        with suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return None  # the text, if there is any, is that of a process that was killed
    return LeaseHolder(**json.loads(text)) if text.endswith("\n") else None


def describe_holder(device: str) -> str:
    """Describe the process that holds a device, for people who wait for it.

    Args:
        device: Name of the device on this machine.
    """
    holder = read_lease_holder(device)
    if holder is None:
        return "another process, which is just taking or releasing it"
    command = "its command is not visible"
    with suppress(psutil.Error):
        command = " ".join(" ".join(psutil.Process(holder.pid).cmdline()).split())  # on one line
    command = command if len(command) <= _MAX_COMMAND_LENGTH else f"{command[:_MAX_COMMAND_LENGTH]}…"
    return f"process {holder.pid} ({command}) for the data folder {holder.data_folder} since {holder.since_utc}"


@contextmanager
def device_lease(devices: list[str], data_folder: Path, lock_name: Callable[[str], str] = str) -> Iterator[str]:
    """Hold the first free device until the block ends; wait while other processes hold all devices.

    Args:
        devices: Names such as `cpu` or `cuda:0`, in order of preference.
        data_folder: The data folder, which processes that wait name as that of the holder.
        lock_name: Maps a device to its name on this machine, which is the same in every process.

    Yields:
        The name of the held device.
    """
    folder = lease_folder()
    while True:
        for device in devices:
            with open_lock_file(_lock_path(folder, lock_name(device))) as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                since_utc = datetime.now(UTC).isoformat(timespec="seconds")
                holder = LeaseHolder(os.getpid(), str(data_folder), since_utc)
                _write_text(lock, f"{json.dumps(asdict(holder))}\n")
                try:
                    yield device
                finally:
                    _write_text(lock, "")
                return
        time.sleep(_POLL_S)


def _lock_path(folder: Path, device: str) -> Path:
    return folder / f"{device.replace(':', '-')}.lock"


def _write_text(lock: TextIO, text: str) -> None:
    """Replace the text of a lock file that this process has locked."""
    with suppress(OSError):  # on a full disk the holder stays unnamed; the lease is the lock, not the text
        os.ftruncate(lock.fileno(), 0)
        os.pwrite(lock.fileno(), text.encode(), 0)
