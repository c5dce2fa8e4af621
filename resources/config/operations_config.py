"""Settings of operation: batches, run queue, retention and notifications."""

from pathlib import Path
from typing import Annotated, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from resources.config.section import Secret, Section

_MAX_DAYS = 36_500  # a century
_MAX_CHANNELS, _MAX_RECIPIENTS = 100, 100


class BatchSettings(Section):
    """How much one run processes; a run loads the model once."""

    max_recordings: int = Field(30, ge=1, description="At most this many recordings per run.")
    max_footage_minutes: float = Field(60, gt=0, description="At most about this many minutes of footage per run.")
    checkpoint_s: float = Field(
        60,
        gt=0,
        le=1_000_000,
        description="Length of a checkpoint in seconds of footage: a killed run repeats at most one.",
    )
    max_attempts: int = Field(2, ge=1, description="Attempts per recording, the first included.")


class QueueSettings(Section):
    """How many runs execute at once, however they were launched; read when the pipeline starts."""

    gpu_runs: int | None = Field(
        None,
        ge=1,
        description="Runs with a model stage (tag gpu=true); null: one per worker of the queue gpu, and one worker per "
        "device. A device still serves one model stage at a time.",
    )
    cpu_runs: int | None = Field(
        None,
        ge=1,
        description="Runs without a model stage (tag cpu=true), such as ingest; null: one per worker of the queue cpu, "
        "and one worker per four cores, but two to four. Each run uses a core or two.",
    )
    worker_max_memory_mb: int = Field(
        8000,
        ge=500,
        description="A worker whose process needs more memory after a run restarts it before the next.",
    )


class RetentionSettings(Section):
    """Deletion by age, in days; null: never."""

    daily_at_hour_utc: int | None = Field(3, ge=0, le=23, description="Hour (UTC) of the daily run; null: no run.")
    runs_after_days: float | None = Field(
        30,
        ge=0,
        le=_MAX_DAYS,
        description="Finished runs that are not the latest materialization of any partition, with their events.",
    )
    logs_after_days: float | None = Field(14, ge=0, le=_MAX_DAYS, description="Compute logs of finished runs.")
    media_after_days: float | None = Field(
        None, ge=0, le=_MAX_DAYS, description="Normalized videos; results computed from them stay."
    )
    crops_after_days: float | None = Field(None, ge=0, le=_MAX_DAYS, description="JPEG images of crops; rows stay.")
    archive_after_days: float | None = Field(
        None,
        ge=0,
        le=_MAX_DAYS,
        description="Recordings finished so long ago are removed from Dagster's partitions; all their rows stay. For "
        "archives of more than 100,000 recordings.",
    )


Topic = Literal["success", "failure", "recovery", "no_data"]


class ChannelSettings(Section):
    """A channel that receives notifications."""

    name: str = Field(pattern=r"^[\w.-]{1,40}$", description="Name of the channel in the table notifications.")
    events: tuple[Topic, ...] = Field(
        get_args(Topic),
        description="success: a recording succeeded; failure: a recording failed on its last attempt, or work is on "
        "hold; recovery: a failed recording succeeded, or a hold or backlog ended; no_data: no files arrive from a "
        "camera, or they arrive again.",
    )
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) to verify the server with; null: those of the system."
    )


class WebhookSettings(ChannelSettings):
    """A channel that posts messages to a web address."""

    url: Secret = Field(description="Address, http(s)://…, or {env: NAME} to read it from the environment.")
    format: Literal["json", "slack", "teams"] = Field(
        "json", description="json: every field; slack: incoming webhook; teams: Workflows webhook."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: Secret) -> Secret:
        if isinstance(value, SecretStr):
            check_web_address(value.get_secret_value())
        return value


class EmailSettings(ChannelSettings):
    """A channel that sends e-mails through an SMTP server."""

    host: str = Field(min_length=1, description="SMTP server.")
    port: int | None = Field(
        None, ge=1, le=65535, description="Port of the server; null: 25, with starttls 587, with ssl 465."
    )
    security: Literal["none", "starttls", "ssl"] = Field("starttls", description="How the connection is encrypted.")
    user: str | None = Field(None, description="Login name; null: no login.")
    password: Secret | None = Field(None, description="Password, or {env: NAME} to read it from the environment.")
    sender: str = Field(pattern=r"^[^\s@]+@[^\s@]+$", description="Sender address.")
    recipients: tuple[Annotated[str, Field(pattern=r"^[^\s@]+@[^\s@]+$")], ...] = Field(
        min_length=1, max_length=_MAX_RECIPIENTS, description="Recipient addresses."
    )

    @model_validator(mode="after")
    def _check_login(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together: give both or neither")
        return self


class NotificationSettings(Section):
    """Channels and the events that they receive; nothing is sent without a channel."""

    interval_s: int = Field(60, ge=1, description="Interval in seconds: at most one message per interval and channel.")
    backlog_min_recordings: int = Field(
        20, ge=1, description="This many waiting recordings are a backlog, whose end is notified."
    )
    no_data_after_h: dict[str, Annotated[float, Field(gt=0, le=24 * _MAX_DAYS)]] = Field(
        {},
        description='Per camera (* for all others, "" for files directly in the watched folder), hours without a file '
        "before a no-data alert.",
    )
    webhooks: tuple[WebhookSettings, ...] = Field((), max_length=_MAX_CHANNELS, description="Webhook channels.")
    emails: tuple[EmailSettings, ...] = Field((), max_length=_MAX_CHANNELS, description="E-mail channels.")

    @property
    def channels(self) -> tuple[WebhookSettings | EmailSettings, ...]:
        """All channels."""
        return (*self.webhooks, *self.emails)

    def no_data_limit_h(self, camera: str) -> float | None:
        """Hours without a file after which a camera gets a no-data alert; None: never."""
        return self.no_data_after_h.get(camera, self.no_data_after_h.get("*"))

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [channel.name for channel in self.channels]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two channels have the name {repeated[0]}: every name must be unique")
        return self


def check_web_address(text: str) -> str:
    """Check that a text is an HTTP or HTTPS address.

    Returns:
        The address.

    Raises:
        ValueError: The text is not an HTTP or HTTPS address. The error does not quote the text, which may be a secret.
    """
    try:
        parts = urlsplit(text)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address or not text.isascii() or any(char.isspace() or not char.isprintable() for char in text):
        raise ValueError("the address must be like https://host/path, in ASCII and without spaces")
    return text
