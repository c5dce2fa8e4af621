"""Settings of privacy copies."""

from typing import Annotated

from pydantic import Field

from resources.config.section import Section


class PrivacyCopySettings(Section):
    """A copy of each recording's normalized video in which people and number plates are unreadable."""

    cover: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (),
        max_length=1000,
        description="What is covered on the copies: classes of the detector, face, and plate (text, which needs the "
        "package rapidocr). Without any, no copies are written.",
    )
