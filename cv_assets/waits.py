"""Waits of a stage, as observations of its asset: what is waited for, and for how long."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from dagster import AssetExecutionContext, AssetObservation

WAITING_FOR, WAITED, NOTHING = "waiting for", "waited (s)", "nothing"
"""Metadata of the observations: what is waited for, `nothing` after the wait; and the seconds so far."""

_FIRST_REPORT_S = 2.0
_REPORT_INTERVAL_S = 10.0
_CHECK_INTERVAL_S = 0.5

ShowWait = Callable[[Callable[[], str]], AbstractContextManager[object]]
"""Shows people that a block is a wait; takes a function that describes what is waited for."""


@contextmanager
def report_wait(
    context: AssetExecutionContext, asset_name: str, recording_id: str | None, describe: Callable[[], str]
) -> Iterator[None]:
    """Report the block as a wait if it takes longer than two seconds: soon after, then about every ten, and at its end.

    Args:
        context: The step's context.
        asset_name: The asset that waits.
        recording_id: The recording that waits, or the first of those that do; None if the run has none.
        describe: Describes what is waited for, as in "cpu, which is held by process 7"; called in another thread.
    """
    has_ended, started_s = threading.Event(), time.monotonic()
    subject = f"{recording_id}: {asset_name}" if recording_id else asset_name

    def log(text: str) -> None:
        waited_s = round(time.monotonic() - started_s, 1)
        metadata: dict[str, Any] = {WAITING_FOR: text, WAITED: waited_s}
        context.log_event(AssetObservation(asset_name, partition=recording_id, metadata=metadata))

    def log_until_end() -> None:
        text, next_report_s = "", 0.0
        while not has_ended.wait(_CHECK_INTERVAL_S):
            now_s = time.monotonic()
            if now_s < started_s + _FIRST_REPORT_S:
                continue
            last_text, text = text, describe()
            if text != last_text:
                context.log.info(f"{subject} waits for {text}.")
            elif now_s < next_report_s:
                continue
            log(text)
            # A wait of a night must not fill the event log.
            next_report_s = now_s + max(_REPORT_INTERVAL_S, (now_s - started_s) / 10)
        if text:
            context.log.info(f"{subject} went on after {time.monotonic() - started_s:.0f} s.")
            log(NOTHING)

    # The block may be a call that does not return for a long time, such as the compilation of a network.
    with ThreadPoolExecutor(1, thread_name_prefix="wait report") as pool:
        reports = pool.submit(log_until_end)
        try:
            yield
        finally:
            has_ended.set()
        reports.result()
