"""The addresses of the web servers of a data folder, in files of Dagster's home while they run."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

DAGSTER_UI, PAGES = "ui", "pages"
"""Names of the servers: Dagster's UI, and the pages and the API of `cv-assets serve`."""


@contextmanager
def announced_address(data_folder: Path, server: str, address: str) -> Iterator[None]:
    """Keep the address of a server of this process in its file while the block runs.

    Args:
        data_folder: The data folder.
        server: DAGSTER_UI or PAGES.
        address: Its address, such as `http://127.0.0.1:3000`.
    """
    file = _file(data_folder, server)
    draft = file.with_suffix(".next")
    draft.write_text(json.dumps({"address": address, "host": socket.gethostname(), "pid": os.getpid()}))
    draft.replace(file)
    try:
        yield
    finally:
        if read_address(data_folder, server) == address:  # else another one has started
            file.unlink(missing_ok=True)


def read_address(data_folder: Path, server: str) -> str | None:
    """Read the address of a server; None while it does not run."""
    try:
        content = json.loads(_file(data_folder, server).read_text(encoding="utf-8"))
        address, host, pid = str(content["address"]), content["host"], int(content["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    is_running = host != socket.gethostname() or psutil.pid_exists(pid)  # a killed server leaves its file
    return address if is_running else None


def _file(data_folder: Path, server: str) -> Path:
    return data_folder / "dagster" / f"{server}-address.json"
