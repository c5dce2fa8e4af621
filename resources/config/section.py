"""Base class and value types shared by all settings sections."""

import zoneinfo
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
)


class Section(BaseModel):
    """One section of pipeline.yaml: immutable, and without unknown keys, infinities or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def check_time_zone(value: str) -> str:
    """Check that a name is an IANA time zone.

    Returns:
        The name.

    Raises:
        ValueError: The name is no IANA time zone of this machine.
    """
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{value!r} is not an IANA time zone such as Europe/Berlin") from error
    return value


def check_not_empty(value: object) -> object:
    """Check that a path is not empty text, which would be the current folder."""
    if value == "":
        raise ValueError("the path is empty: name a folder")
    return value


FolderPath = Annotated[Path, BeforeValidator(check_not_empty)]
Share = Annotated[float, Field(ge=0, le=1)]
TimeZone = Annotated[str, AfterValidator(check_time_zone)]
MAX_SHAPES, _MAX_POINTS = 200, 200  # far more than anyone draws; checks of outlines take the square of the points
Polygon = Annotated[tuple[tuple[float, float], ...], Field(max_length=_MAX_POINTS)]
Points = Annotated[tuple[tuple[float, float], ...], Field(max_length=_MAX_POINTS)]


class EnvironmentVariable(Section):
    """A secret that is read from an environment variable, so that it need not be in the settings file."""

    env: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the environment variable.")


Secret = SecretStr | EnvironmentVariable
