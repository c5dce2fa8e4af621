"""Settings of tiles: sliced inference, for objects that are small in a large frame."""

from pydantic import Field

from resources.config.section import Section


class TileSettings(Section):
    """Overlapping tiles of the frame, on each of which the model runs."""

    size_px: int = Field(640, ge=64, le=8192, description="Side of a tile, in pixels of the normalized video.")
    overlap: float = Field(
        0.2,
        ge=0.05,
        le=0.5,
        description="Share of a tile that its neighbour has, too: objects up to this size are whole in one of them.",
    )
    whole_frame: bool = Field(
        True, description="Also run the model on the whole frame, scaled down, for objects larger than a tile."
    )
