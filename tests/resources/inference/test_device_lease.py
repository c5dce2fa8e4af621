"""Device leases: who holds a device, and whose files the locks are."""

import multiprocessing
import os
import stat
import tempfile
import threading
import time
from pathlib import Path

import pytest

from resources.errors import PipelineError
from resources.inference.device_lease import describe_holder, device_lease, lease_folder, read_lease_holder

DATA_FOLDER = Path("/data")


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def device() -> str:
    return "test:0"


def hold_device(device: str, duration_s: float) -> None:
    with device_lease([device], DATA_FOLDER):
        time.sleep(duration_s)


def test_a_device_is_held_by_one_process_and_released_when_the_process_is_killed(device: str) -> None:
    holder = multiprocessing.get_context("spawn").Process(target=hold_device, args=(device, 60))
    holder.start()
    lock_file = lease_folder() / f"{device.replace(':', '-')}.lock"
    deadline_s = time.monotonic() + 30
    while not lock_file.exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    time.sleep(0.5)
    holder_before = read_lease_holder(device)
    assert holder_before is not None and holder_before.pid == holder.pid
    described = describe_holder(device)
    assert described.startswith(f"process {holder.pid} (") and "spawn_main" in described
    assert described.endswith(f" for the data folder /data since {holder_before.since_utc}")
    threading.Timer(0.5, holder.kill).start()
    started_s = time.monotonic()
    with device_lease([device], DATA_FOLDER) as leased:
        assert leased == device
    assert time.monotonic() - started_s > 0.4


def test_the_lock_file_names_the_process_that_holds_the_device(device: str) -> None:
    assert read_lease_holder(device) is None
    with device_lease([device], DATA_FOLDER):
        holder = read_lease_holder(device)
        assert holder is not None
        assert (holder.pid, holder.data_folder) == (os.getpid(), "/data")
        assert holder.since_utc.endswith("+00:00")
    assert read_lease_holder(device) is None
    lock_file = lease_folder() / "test-0.lock"
    lock_file.write_text('{"pid": 1, "data_folder": "/data", "since_utc": ""}\n')  # of a process that was killed
    assert read_lease_holder(device) is None


def test_the_locks_are_in_a_folder_of_the_user_alone(cache_home: Path, device: str) -> None:
    cache_home.mkdir()
    folder = cache_home / "cv-assets" / "devices"
    folder.mkdir(parents=True, mode=0o777)
    with device_lease([device], DATA_FOLDER):
        assert lease_folder() == folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_a_lock_file_that_is_a_link_is_refused_and_its_target_keeps_its_content(tmp_path: Path, device: str) -> None:
    target = tmp_path / "target.txt"
    target.write_text("content")
    (lease_folder() / "test-0.lock").symlink_to(target)
    with pytest.raises(PipelineError, match="is a symbolic link: remove it"), device_lease([device], DATA_FOLDER):
        pass
    assert target.read_text() == "content"


def test_without_a_writable_home_the_locks_are_in_a_folder_of_the_user_in_the_temporary_folder(
    cache_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_home.write_text("not a folder")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"cv-assets-{os.geteuid()}-devices"
    assert lease_folder() == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rename(tmp_path / "theirs")
    folder.symlink_to(tmp_path / "theirs")
    with pytest.raises(PipelineError, match=rf"^The folder {folder} of the device locks is a link or belongs to"):
        lease_folder()
    folder.unlink()
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, 12345, -1)
        with pytest.raises(PipelineError, match="is a link or belongs to another user"):
            lease_folder()


def test_the_first_free_device_is_leased(device: str) -> None:
    devices = [f"{device}a", f"{device}b"]
    with device_lease(devices, DATA_FOLDER) as first, device_lease(devices, DATA_FOLDER) as second:
        assert (first, second) == (devices[0], devices[1])


def test_devices_are_locked_by_their_name_on_the_machine(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_waiting(_: float) -> None:
        raise TimeoutError

    with device_lease(["cuda:0"], DATA_FOLDER, lambda _: f"{device}a") as leased:
        with device_lease(["cuda:0"], DATA_FOLDER, lambda _: f"{device}b") as other_leased:
            assert leased == other_leased == "cuda:0"
        monkeypatch.setattr(time, "sleep", stop_waiting)
        with pytest.raises(TimeoutError), device_lease(["cuda:7"], DATA_FOLDER, lambda _: f"{device}a"):
            pass
