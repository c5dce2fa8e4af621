"""Settings of the clock that cameras burn into their pictures."""

from pydantic import Field

from resources.config.section import Section


class CameraClockSettings(Section):
    """Reading of the clock in the picture."""

    read: bool = Field(
        False, description="Read the clock in the picture of each recording; needs the package rapidocr."
    )
    frames: int = Field(7, ge=3, le=50, description="Number of frames of a recording in which it is read.")
