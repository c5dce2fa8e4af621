"""The pages on a free port of this process, and the Chromium of the system, for benchmarks and tests."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from resources.config.settings import Settings
from serve.access_control import Access
from serve.app import build_app

_STOP_S = 10


@contextmanager
def serving(settings: Settings) -> Iterator[str]:
    """Serve the pages and the API on a free port; yields their address."""
    import uvicorn

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        app = build_app(settings, Access.to_address("127.0.0.1", port, None))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(timeout=_STOP_S)


def find_chromium() -> str | None:
    """Path of Chromium or Chrome; None if neither is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
