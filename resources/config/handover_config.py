"""Settings of what people hand on: evidence packs and nightly recaps."""

from pathlib import Path

from pydantic import Field, field_validator

from resources.config.section import FolderPath, Section

NO_CAMERA_FOLDER = "recordings"
"""Folder and name of the recaps of recordings directly in the watched folder."""


class PackSettings(Section):
    """Evidence packs (`cv-assets pack`)."""

    signing_key: Path | None = Field(
        None, description="File of an Ed25519 private key (PEM), which signs packs; null: packs are not signed."
    )


class RecapSettings(Section):
    """Nightly recaps, a schedule per camera."""

    folder: FolderPath | None = Field(
        None,
        description="Folder of the recaps, outside of the watched folders and the data folder; null: none are written.",
    )
    cameras: tuple[str, ...] = Field(
        (), max_length=10_000, description='Cameras with a recap ("": recordings directly in the watched folder).'
    )
    daily_at_hour: int = Field(
        4, ge=0, le=23, description="Hour at which the recap of the day before is written, in the camera's time zone."
    )
    length_s: float | None = Field(
        120,
        gt=0,
        description="Length of a recap, more if it has too many stretches; null: at the speed of the recordings.",
    )

    @field_validator("cameras")
    @classmethod
    def _check_cameras(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if repeated := [name for name in value if value.count(name) > 1]:
            raise ValueError(f"the camera {repeated[0]!r} is listed twice")
        if {"", NO_CAMERA_FOLDER} <= {*value}:
            raise ValueError(f"the recaps of '' are in the folder {NO_CAMERA_FOLDER}, as those of the camera are")
        return value
