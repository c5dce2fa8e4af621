"""The result of normalization: properties of the video, and one row per frame."""

from array import array
from dataclasses import dataclass, field
from fractions import Fraction

from resources.media.frame_measures import FrameMeasures
from resources.media.source_decoder import PacketLedger

WHOLE_FRAME = (0.0, 0.0, 1.0, 1.0)


@dataclass
class FrameRows:
    """The normalized frames in order, one array entry each.

    Attributes:
        source_frame_index: Index of the source frame that the normalized frame shows.
        time_s: Time of the source frame on the source's clock: PTS minus the PTS of the first decoded frame.
        is_duplicated: Whether the frame repeats the previous one.
        gap_s: Length of an unfilled gap before the frame; 0 if there is none.
    """

    source_frame_index: "array[int]" = field(default_factory=lambda: array("i"))
    time_s: "array[float]" = field(default_factory=lambda: array("d"))
    is_duplicated: "array[int]" = field(default_factory=lambda: array("b"))
    gap_s: "array[float]" = field(default_factory=lambda: array("d"))

    def append(self, source_frame_index: int, time_s: float, *, is_duplicated: bool, gap_s: float) -> None:
        """Add the next frame."""
        self.source_frame_index.append(source_frame_index)
        self.time_s.append(time_s)
        self.is_duplicated.append(is_duplicated)
        self.gap_s.append(gap_s)

    def __len__(self) -> int:
        return len(self.time_s)


@dataclass(frozen=True)
class NormalizedVideo:
    """The normalized video of a recording, and the outcome of every packet and frame.

    Attributes:
        normalized_by: `encode`, `remux`, or `reference` if no file was written and the source itself is used.
        source_rate_fps: Frame rate of the source, from its packets.
        rate_fps: Frame rate of the normalized video.
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.
        frames: Rows of the normalized frames.
        measures: Measures of the normalized frames.
        time_source: `pts`, or `frame_rate` if the source has no timestamps.
        is_variable_rate: Whether the source has a variable frame rate.
        ledger: Outcome of the source's packets.
        container_packet_count: Packets that the first pass over the container counted, for comparison.
        decimated_count: Decoded frames omitted to keep the rate or by the setting `every_nth`.
        out_of_range_count: Decoded frames omitted because they are outside the time range of the settings.
        is_truncated: Whether the container could not be read to its end.
        start_time_s: PTS of the first decoded frame on the file's own clock; None without timestamps.
        lead_s: Time between the first packet and the first frame that decoded.
        region: Part of the upright source frame that the video shows: left, top, right, bottom as shares.
        duration_s: Duration of the decoded part, on the source's clock.
    """

    normalized_by: str
    source_rate_fps: Fraction
    rate_fps: Fraction
    width_px: int
    height_px: int
    frames: FrameRows
    measures: FrameMeasures
    time_source: str
    is_variable_rate: bool
    ledger: PacketLedger
    container_packet_count: int
    decimated_count: int
    out_of_range_count: int
    is_truncated: bool
    start_time_s: float | None
    lead_s: float
    region: tuple[float, float, float, float]
    duration_s: float

    @property
    def duplicated_count(self) -> int:
        """Number of frames that repeat the previous one."""
        return sum(self.frames.is_duplicated)
