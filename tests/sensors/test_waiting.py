import subprocess
import sys
import threading

from sensors.waiting import added, ask_now, tell_added, wait_for


def test_who_waits_asks_at_once_when_told_to_and_no_more_often_than_was_said() -> None:
    asked: list[int] = []
    is_waiting, has_happened = threading.Event(), threading.Event()

    def ask() -> bool:
        asked.append(1)
        is_waiting.set()
        return has_happened.is_set()

    found: list[bool] = []
    waiter = threading.Thread(target=lambda: found.append(wait_for(ask, longest_s=600, every_s=lambda: 600)))
    waiter.start()
    assert is_waiting.wait(60)
    ask_now()  # for somebody else
    has_happened.set()
    ask_now()
    waiter.join(60)
    assert found == [True]
    assert len(asked) <= 3


def test_an_added_partition_is_told_to_who_waits() -> None:
    before = added()
    waiter = threading.Thread(target=lambda: wait_for(lambda: added() > before, longest_s=600, every_s=lambda: 600))
    waiter.start()
    tell_added(2)
    waiter.join(60)
    assert not waiter.is_alive()
    assert added() == before + 2


def test_who_waits_in_vain_is_told_so() -> None:
    assert not wait_for(lambda: False, longest_s=0.05, every_s=lambda: 0.01)


def test_who_waits_does_not_keep_a_process_that_is_being_stopped() -> None:
    waits = """
import threading
from sensors.waiting import wait_for
is_waiting = threading.Event()
threading.Thread(target=lambda: wait_for(lambda: is_waiting.set(), longest_s=600, every_s=lambda: 600)).start()
is_waiting.wait()
"""
    subprocess.run([sys.executable, "-c", waits], check=True, timeout=60)
