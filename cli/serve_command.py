"""The command serve: the pages of recordings and the API for other programs."""

from contextlib import suppress
from pathlib import Path

import click

from cli.options import data_option, interrupt_on_sigterm, settings_option
from resources.environment import choose_settings, prepare_data_folder


@click.command()
@data_option
@settings_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; any but loopback needs serve.token.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port [default: 3100, or a free one if another program uses it]."
)
def serve(data: Path | None, settings: Path | None, host: str, port: int | None) -> None:
    """Serve the pages of recordings and the API until stopped."""
    from serve.web_server import run_server

    loaded_settings = choose_settings(settings=settings, data_folder=data)
    loaded_settings.watched_folder.mkdir(parents=True, exist_ok=True)
    prepare_data_folder(loaded_settings)
    with suppress(KeyboardInterrupt), interrupt_on_sigterm():
        run_server(loaded_settings, host, port, announce=lambda address: click.echo(f"Pages and API: {address}"))
