"""Queues of launched runs, from which workers take them: in the data folder, or in a message broker.

Dagster's run coordinator launches a run only while a worker of its queue is free, so a queue is nearly always empty.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from resources.errors import PipelineError

if TYPE_CHECKING:
    from kombu import Connection, Queue

logger = logging.getLogger(__name__)

BROKER_VARIABLE = "CV_ASSETS_BROKER"
GPU_QUEUE, CPU_QUEUE, HOUSEKEEPING_QUEUE = "gpu", "cpu", "housekeeping"
QUEUES = (GPU_QUEUE, CPU_QUEUE, HOUSEKEEPING_QUEUE)

_BROKER_SCHEMES = ("redis", "rediss", "amqp", "amqps")
_RECONNECT_S = 30.0
Result = TypeVar("Result")


class RunQueue(Protocol):
    """Where launched runs wait for workers; each is taken by one worker, once."""

    def put(self, queue: str, run_id: str) -> None:
        """Append a run to a queue.

        Raises:
            PipelineError: The queue cannot be reached.
        """

    def take(self, queue: str) -> str | None:
        """Remove the oldest run of a queue; None if the queue is empty.

        Raises:
            PipelineError: The queue cannot be reached.
        """


def open_run_queue(data_folder: Path, environment: Mapping[str, str] = os.environ) -> RunQueue:
    """Open the queues: those of the broker in CV_ASSETS_BROKER, or else those in the data folder.

    Raises:
        PipelineError: The variable contains no address of a broker.
    """
    address = environment.get(BROKER_VARIABLE)
    return BrokerQueue(address) if address else FolderQueue(data_folder / "workers" / "queues")


class FolderQueue:
    """Queues in a folder, one file per run: on one machine this needs no server.

    A file is renamed into its queue when it is complete, and taken by a rename, which succeeds for one worker only.
    Kombu's own folder transport does neither: it shows files that are still being written.

    Args:
        folder: The folder; created with the first run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, queue: str, run_id: str) -> None:
        """Append a run to a queue."""
        folder = self._folder / queue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            draft = self._folder / f".{run_id}"
            draft.write_text(run_id, encoding="utf-8")
            draft.rename(folder / f"{time.time_ns():020d}-{run_id}")
        except OSError as error:
            raise PipelineError(f"{folder}: the run cannot be queued: {error.strerror or error}.") from error

    def take(self, queue: str) -> str | None:
        """Remove the oldest run of a queue; None if the queue is empty."""
        folder = self._folder / queue
        try:
            names = sorted(file.name for file in folder.iterdir())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PipelineError(f"{folder}: the queue cannot be read: {error.strerror or error}.") from error
        for name in names:
            taken = self._folder / f".{name}"
            try:
                (folder / name).rename(taken)
            except FileNotFoundError:
                continue  # another worker was faster
            run_id = taken.read_text(encoding="utf-8")
            taken.unlink()
            return run_id
        return None


def broker_queue_name(queue: str) -> str:
    """Name of a queue in the broker, which other programs may use as well."""
    return f"cv-assets-{queue}"


def open_broker(address: str) -> "Connection":
    """Prepare a connection to Redis or RabbitMQ, which is opened with its first use.

    Args:
        address: Address of the broker, redis://… or amqp://….

    Raises:
        PipelineError: The address is of another kind, or the package celery is not installed.
    """
    if urlsplit(address).scheme not in _BROKER_SCHEMES:
        raise PipelineError(
            f"{BROKER_VARIABLE} must be an address like redis://host:6379/0 or amqp://user:password@host:5672//."
        )
    try:
        import kombu
    except ImportError as error:
        raise PipelineError(
            f"{BROKER_VARIABLE} is set, and the package celery is not installed: install cv-assets[broker]."
        ) from error
    return kombu.Connection(address, connect_timeout=5, heartbeat=0, transport_options={"socket_keepalive": True})


def broker_errors(connection: "Connection") -> tuple[type[Exception], ...]:
    """The errors of a connection whose broker is away."""
    return (*connection.connection_errors, *connection.channel_errors, OSError)


class BrokerQueue:
    """Queues in Redis or RabbitMQ.

    A message is acknowledged when it is taken. If its worker is killed, Dagster's run monitoring finds the run without
    a live worker, and the run planner requests its work again.

    Args:
        address: Address of the broker, redis://… or amqp://….

    Raises:
        PipelineError: The address is of another kind, or the package celery is not installed.
    """

    def __init__(self, address: str) -> None:
        self._connection = open_broker(address)
        self._channels: dict[str, tuple[Any, Queue]] = {}

    def put(self, queue: str, run_id: str) -> None:
        """Append a run to a queue; waits up to half a minute for a broker that is restarting."""
        import kombu

        deadline_s = time.monotonic() + _RECONNECT_S

        def publish() -> None:
            channel, broker_queue = self._open(queue)
            kombu.Producer(channel).publish(
                {"run_id": run_id}, routing_key=broker_queue.name, serializer="json", delivery_mode=2
            )

        while True:
            try:
                return self._with_connection(publish)
            except PipelineError:
                if time.monotonic() > deadline_s:
                    raise
                time.sleep(1)

    def take(self, queue: str) -> str | None:
        """Remove the oldest run of a queue; None if the queue is empty."""

        def get() -> str | None:
            from kombu.exceptions import KombuError

            _, broker_queue = self._open(queue)
            while (message := broker_queue.get(no_ack=False)) is not None:
                message.ack()
                try:
                    return str(message.payload["run_id"])
                except (KombuError, KeyError, TypeError) as error:
                    logger.warning("The queue %s had a message that names no run (%s).", broker_queue.name, error)
            return None

        return self._with_connection(get)

    def _open(self, queue: str) -> tuple[Any, "Queue"]:
        import kombu

        if queue not in self._channels:
            channel = self._connection.channel()
            broker_queue = kombu.Queue(broker_queue_name(queue), durable=True)(channel)
            broker_queue.declare()
            self._channels[queue] = channel, broker_queue
        return self._channels[queue]

    def _with_connection(self, action: Callable[[], Result]) -> Result:
        """Do something with the broker.

        Raises:
            PipelineError: The broker cannot be reached; the next call connects again.
        """
        try:
            return action()
        except broker_errors(self._connection) as error:
            self._channels.clear()
            self._connection.collect()
            address = self._connection.as_uri()  # without the password
            raise PipelineError(
                f"The broker {address} cannot be reached ({error}): start it, or correct {BROKER_VARIABLE}."
            ) from error
