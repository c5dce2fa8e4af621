"""The command notify: sends a test message through the notification channels."""

import sys
from pathlib import Path

import click

from cli.options import settings_option
from resources.environment import choose_settings
from resources.errors import PipelineError


@click.command()
@click.option("--channel", "channel_name", help="Name of the channel [default: all channels].")
@settings_option
def notify(channel_name: str | None, settings: Path | None) -> None:
    """Send a test message through the notification channels, and print whether each was delivered."""
    from resources.notifications.delivery import send_messages
    from resources.notifications.messages import build_test_message

    channels = choose_settings(settings=settings).notifications.channels
    if not channels:
        raise PipelineError("The settings have no notification channel: add one at notifications.")
    selected_channels = [channel for channel in channels if channel_name in (None, channel.name)]
    if not selected_channels:
        known = ", ".join(channel.name for channel in channels)
        raise PipelineError(f"The settings have no channel {channel_name}; known: {known}.")
    states = []
    for channel, delivery in send_messages([(channel, build_test_message()) for channel in selected_channels]):
        states.append(delivery.state)
        click.echo(f"{channel.name}: {delivery.state}{f': {delivery.error}' if delivery.error else ''}")
    sys.exit(0 if set(states) == {"sent"} else 1)
