"""A real RabbitMQ server for tests: on free ports of this machine, in a folder of its own."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

_DEBIAN_PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")  # that on PATH starts this one as another user


def find_rabbitmq_server() -> Path | None:
    """Find the program `rabbitmq-server`; None if it is not on PATH."""
    program = shutil.which("rabbitmq-server")
    if program and _DEBIAN_PROGRAM.exists():
        return _DEBIAN_PROGRAM
    return Path(program) if program else None


class RabbitmqServer:
    """One server, which keeps its durable queues over a restart; a test may stop and start it.

    Args:
        program: The program `rabbitmq-server`.
        folder: Its folder.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self._program, self._folder = program, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._name_server: subprocess.Popen[bytes] | None = None
        self.port, distribution_port, name_port = _free_port(), _free_port(), _free_port()
        self._environment = {
            **os.environ,
            "HOME": str(folder),  # where Erlang keeps its cookie
            "RABBITMQ_NODENAME": f"test{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(name_port),
        }
        self.start()

    @property
    def url(self) -> str:
        """The address of its first virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        with (self._folder / "rabbitmq.log").open("ab") as log:
            # Erlang's name server would otherwise outlive the test, or not be started at all.
            self._name_server = subprocess.Popen(
                ["epmd"], stdout=log, stderr=log, env=self._environment, cwd=self._folder
            )
            self._process = subprocess.Popen(
                [str(self._program)],
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=self._folder,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline and self._process.poll() is None, self._folder / "rabbitmq.log"
                time.sleep(0.2)

    def stop(self) -> None:
        """Stop the server; open connections end.

        One that was started just now may miss the signal, and is killed.
        """
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait(10)
            self._process = None
        if self._name_server is not None:
            self._name_server.terminate()
            self._name_server.wait(10)
            self._name_server = None


def _free_port() -> int:
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        return int(free_socket.getsockname()[1])
