import subprocess
import sys
import threading

from sensors.sensor_wakeup import added_partition_count, count_added_partitions, wait_for_change, wake_sensors


def test_a_wakeup_checks_at_once_and_without_one_the_interval_holds() -> None:
    checks: list[int] = []
    is_waiting, has_changed = threading.Event(), threading.Event()

    def check() -> bool:
        checks.append(1)
        is_waiting.set()
        return has_changed.is_set()

    results: list[bool] = []
    waiter = threading.Thread(
        target=lambda: results.append(wait_for_change(check, timeout_s=600, interval_s=lambda: 600))
    )
    waiter.start()
    assert is_waiting.wait(60)
    wake_sensors()  # without a change for this waiter
    has_changed.set()
    wake_sensors()
    waiter.join(60)
    assert results == [True]
    assert len(checks) <= 3


def test_an_added_partition_wakes_waiting_sensors() -> None:
    before = added_partition_count()
    waiter = threading.Thread(
        target=lambda: wait_for_change(lambda: added_partition_count() > before, timeout_s=600, interval_s=lambda: 600)
    )
    waiter.start()
    count_added_partitions(2)
    waiter.join(60)
    assert not waiter.is_alive()
    assert added_partition_count() == before + 2


def test_waiting_without_a_change_ends_after_the_timeout() -> None:
    assert not wait_for_change(lambda: False, timeout_s=0.05, interval_s=lambda: 0.01)


def test_waiting_ends_when_the_process_stops() -> None:
    script = """
import threading
from sensors.sensor_wakeup import wait_for_change
is_waiting = threading.Event()
threading.Thread(
    target=lambda: wait_for_change(lambda: is_waiting.set(), timeout_s=600, interval_s=lambda: 600)
).start()
is_waiting.wait()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
