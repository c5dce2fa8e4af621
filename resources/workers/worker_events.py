"""Celery's events of workers and runs, from which Flower shows them: a run is a task with the run's id.

Only a thread of its own uses the broker, so that a worker never waits for it.
"""

import logging
import os
import platform
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from resources.workers.run_queue import BROKER_VARIABLE, broker_errors, broker_queue_name, open_broker
from resources.workers.worker_states import RENEWAL_S, WorkerState

if TYPE_CHECKING:
    from celery.events import EventDispatcher

logger = logging.getLogger(__name__)

_MAX_WAITING_EVENTS = 1000  # while the broker is away; then the oldest are dropped
_RECONNECT_S = 5.0
_HEARTBEAT = "worker-heartbeat"


class WorkerEvents(Protocol):
    """Receives the states of the workers of a process."""

    def report(self, state: WorkerState, is_success: bool | None = None) -> None:
        """Report the state of a worker, which is compared with the one before.

        Args:
            state: The state.
            is_success: Whether the run before, if it has ended, has succeeded; None if unknown.
        """

    def close(self) -> None:
        """Report that the workers have ended."""


def open_worker_events(environment: Mapping[str, str] = os.environ) -> WorkerEvents:
    """Open the events: to the broker in CV_ASSETS_BROKER; without one they are not sent."""
    address = environment.get(BROKER_VARIABLE)
    return CeleryEvents(address) if address else SilentEvents()


class SilentEvents:
    """Without a broker there is no Flower."""

    def report(self, state: WorkerState, is_success: bool | None = None) -> None:
        """Report nothing."""

    def close(self) -> None:
        """Close nothing."""


class CeleryEvents:
    """Sends events over a broker; while it is away, they wait, and heartbeats are left out.

    Args:
        address: Address of the broker.

    Raises:
        PipelineError: The address is of another kind, or the package celery is not installed.
    """

    def __init__(self, address: str) -> None:
        open_broker(address)  # checks the address, and that celery is installed
        import celery

        # Here and not in the thread: kombu and celery replace their modules at the end of their import, so that an
        # import by another thread at the same time gets an empty one.
        self._app = celery.Celery(set_as_current=False)
        self._address = address
        self._states: dict[str, WorkerState] = {}
        self._started_s: dict[str, float] = {}
        self._waiting: deque[tuple[str, str, dict[str, Any]]] = deque(maxlen=_MAX_WAITING_EVENTS)
        self._has_event, self._is_closed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="worker events", daemon=True)
        self._thread.start()

    def report(self, state: WorkerState, is_success: bool | None = None) -> None:
        """Report the state of a worker, which is compared with the one before.

        Args:
            state: The state.
            is_success: Whether the run before, if it has ended, has succeeded; None if unknown.
        """
        before = self._states.get(state.name)
        self._states[state.name] = state
        if before is None:
            self._add(state.name, "worker-online", **_worker_fields(state))
        old_run_id = before.run_id if before else ""
        if old_run_id and old_run_id != state.run_id:
            self._add_end(state.name, old_run_id, is_success)
        if state.run_id and old_run_id != state.run_id:
            self._started_s[state.name] = time.monotonic()
            name = f"{broker_queue_name(state.queue)}.run"
            self._add(
                state.name, "task-received", uuid=state.run_id, name=name, args="()", kwargs="{}", retries=0, eta=None
            )
            self._add(state.name, "task-started", uuid=state.run_id)
        self._add(state.name, _HEARTBEAT, **_worker_fields(state))

    def close(self) -> None:
        """Report that the workers have ended, if the broker is there."""
        for state in self._states.values():
            self._add(state.name, "worker-offline", **_worker_fields(state))
        self._is_closed.set()
        self._has_event.set()
        self._thread.join(1)

    def _add_end(self, worker_name: str, run_id: str, is_success: bool | None) -> None:
        if is_success:
            runtime_s = time.monotonic() - self._started_s[worker_name]
            self._add(worker_name, "task-succeeded", uuid=run_id, result="", runtime=runtime_s)
        else:
            reason = "The run has failed or was canceled." if is_success is False else "The run's process has ended."
            self._add(worker_name, "task-failed", uuid=run_id, exception=reason, traceback="")

    def _add(self, worker_name: str, event: str, **fields: Any) -> None:
        self._waiting.append((worker_name, event, {"timestamp": time.time(), **fields}))
        self._has_event.set()

    def _send_all(self) -> None:
        """Send the waiting events until the end, connecting again as often as that is needed."""
        is_reported = False
        while not self._is_closed.is_set():
            with open_broker(self._address) as connection:
                try:
                    self._send(connection)
                except broker_errors(connection) as error:
                    if not is_reported:
                        logger.warning("Flower shows no workers until the broker is back: %s", error)
                    is_reported = True
            self._is_closed.wait(_RECONNECT_S)

    def _send(self, connection: Any) -> None:
        dispatchers: dict[str, EventDispatcher] = {}
        channel = connection.channel()
        while True:
            is_last = self._is_closed.is_set()
            while self._waiting:
                first = self._waiting[0]
                worker_name, event, fields = first
                is_old = time.time() - fields["timestamp"] > RENEWAL_S
                if not (event == _HEARTBEAT and is_old):
                    if worker_name not in dispatchers:
                        dispatchers[worker_name] = self._app.events.Dispatcher(
                            channel=channel, hostname=worker_name, buffer_while_offline=False
                        )
                    dispatchers[worker_name].send(event, **fields)
                # Only now, because an event that cannot be sent is sent again; a full queue has dropped it itself.
                if self._waiting[0] is first:
                    self._waiting.popleft()
            if is_last:
                return
            self._has_event.wait()
            self._has_event.clear()


def _worker_fields(state: WorkerState) -> dict[str, Any]:
    return {
        "freq": RENEWAL_S,
        "active": int(bool(state.run_id)),
        "processed": 0,
        "sw_ident": "cv-assets",
        "sw_ver": state.version,
        "sw_sys": platform.system(),
        "loadavg": os.getloadavg(),
    }
