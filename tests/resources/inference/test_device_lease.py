import multiprocessing
import time
from collections.abc import Iterator

import pytest

from resources.inference.device_lease import device_lease, lease_folder


@pytest.fixture
def device() -> Iterator[str]:
    """A device name that no other process uses; its lock files are deleted at the end."""
    name = f"test:{time.time_ns()}"
    yield name
    for lock_file in lease_folder().glob(f"{name.replace(':', '-')}*"):
        lock_file.unlink()


def hold_device(device: str, duration_s: float) -> None:
    with device_lease([device]):
        time.sleep(duration_s)


def test_a_device_is_held_by_one_process_and_released_when_the_process_is_killed(device: str) -> None:
    holder = multiprocessing.get_context("spawn").Process(target=hold_device, args=(device, 60))
    holder.start()
    lock_file = lease_folder() / f"{device.replace(':', '-')}.lock"
    deadline_s = time.monotonic() + 30
    while not lock_file.exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    time.sleep(0.5)
    waits: list[bool] = []

    def kill_holder() -> None:
        waits.append(True)
        holder.kill()

    with device_lease([device], on_wait=kill_holder) as leased:
        assert leased == device
    assert waits == [True]


def test_the_first_free_device_is_leased(device: str) -> None:
    devices = [f"{device}a", f"{device}b"]
    with device_lease(devices) as first, device_lease(devices) as second:
        assert (first, second) == (devices[0], devices[1])


def raise_timeout() -> None:
    raise TimeoutError


def test_devices_are_locked_by_their_name_on_the_machine(device: str) -> None:
    with device_lease(["cuda:0"], lock_name=lambda _: f"{device}a") as leased:
        with device_lease(["cuda:0"], lock_name=lambda _: f"{device}b") as other_leased:
            assert leased == other_leased == "cuda:0"
        with pytest.raises(TimeoutError), device_lease(["cuda:7"], raise_timeout, lambda _: f"{device}a"):
            pass
