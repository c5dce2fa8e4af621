"""Runs the pages and the API: chooses the port, checks who may use it, and announces the address."""

import socket
from collections.abc import Callable

import click

from resources.config.settings import Settings
from resources.config.settings_file import load_settings
from resources.dagster_instance.server_addresses import PAGES, announced_address
from resources.errors import PipelineError
from resources.notifications.delivery import resolve_secret
from serve.access_control import Access
from serve.app import DEFAULT_PORT, build_app
from serve.request_guard import HOST

_ALL_ADDRESSES = ("0.0.0.0", "::")
_CLOSE_S = 1  # open pages keep event streams, which would otherwise hold up the end of the process


@click.command()
def serve_pages() -> None:
    """Serve the pages and the API on 127.0.0.1 for `cv-assets dev`, with the settings in force."""
    run_server(load_settings(), HOST, None, lambda address: click.echo(f"Pages and API: {address}"))


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

    token = read_token(settings)
    Access.to_address(host, DEFAULT_PORT, token)  # before anything listens
    listener = _listen(host, port)
    port = int(listener.getsockname()[1])
    access = Access.to_address(host, port, token, settings.serve.host_names)
    app = build_app(settings, access)
    shown_host = socket.gethostname() if host in _ALL_ADDRESSES else f"[{host}]" if ":" in host else host
    address = f"http://{shown_host}:{port}"
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_CLOSE_S, server_header=False)
    with listener, announced_address(settings.data_folder, PAGES, address):
        announce(address)
        uvicorn.Server(config).run([listener])


def read_token(settings: Settings) -> str | None:
    """Read the token of the settings; None without one.

    Raises:
        PipelineError: The token is short, or comes from an environment variable that is not set.
    """
    if settings.serve.token is None:
        return None
    try:
        token = resolve_secret(settings.serve.token)
    except PipelineError as error:
        raise PipelineError(f"serve.token: {error}.") from error
    Access.to_address(HOST, DEFAULT_PORT, token)
    return token


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


if __name__ == "__main__":
    serve_pages()
