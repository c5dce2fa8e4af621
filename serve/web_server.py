"""Runs the pages and the API: chooses the port, checks who may use it, and announces the address."""

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from resources.config.settings import Settings
from resources.errors import PipelineError
from resources.notifications.delivery import resolve_secret
from serve.access_control import Access
from serve.app import DEFAULT_PORT, build_app

ADDRESS_FILE = "serve-address"
"""File in Dagster's home with the address of the pages."""
_CLOSE_S = 1  # open pages keep event streams, which would otherwise hold up the end of the process
_MAX_ADDRESS_LENGTH = 300


def run_server(settings: Settings, host: str, port: int | None, announce: Callable[[str], None]) -> None:
    """Serve the pages and the API until the process is interrupted.

    Args:
        settings: The settings.
        host: Address at which the server listens.
        port: Its port; None means the default one, or a free one where that is in use.
        announce: Called with the address of the pages before the first request.

    Raises:
        PipelineError: The address or the port cannot be used, or the address needs a token.
    """
    import uvicorn

    token = resolve_secret(settings.serve.token) if settings.serve.token else None
    Access.to_address(host, DEFAULT_PORT, token)  # before anything listens
    listener = _listen(host, port)
    port = int(listener.getsockname()[1])
    access = Access.to_address(host, port, token, settings.serve.host_names)
    app = build_app(settings, access)
    shown_host = f"[{host}]" if ":" in host else host
    address = f"http://{shown_host}:{port}"
    file = settings.data_folder / "dagster" / ADDRESS_FILE
    file.write_text(address, encoding="utf-8")
    announce(address)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_CLOSE_S, server_header=False)
    try:
        uvicorn.Server(config).run([listener])
    finally:
        listener.close()
        if read_address(settings.data_folder) == address:
            file.unlink(missing_ok=True)


def read_address(data_folder: Path) -> str | None:
    """Read the address of the pages; None while they are not served."""
    with suppress(OSError, ValueError):
        text = (data_folder / "dagster" / ADDRESS_FILE).read_text(encoding="utf-8")
        return text.strip() if len(text) <= _MAX_ADDRESS_LENGTH else None
    return None


def _listen(host: str, port: int | None) -> socket.socket:
    """Open the socket of the server.

    Raises:
        PipelineError: The address, or the port that a person has chosen, cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    candidates = [port] if port is not None else [DEFAULT_PORT, 0]
    for number in candidates:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), number))
        except OSError as error:
            listener.close()
            if number == candidates[-1]:
                raise PipelineError(
                    f"Port {number} of {host} is not available for the pages ({error.strerror or error}): choose "
                    "another with --port, or another address with --host."
                ) from error
        else:
            listener.listen()
            return listener
    raise AssertionError("unreachable")
