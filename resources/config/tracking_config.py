"""Settings of tracks and crops."""

from typing import Literal

from pydantic import (
    Field,
)

from resources.config.section import Section


class TrackSettings(Section):
    """How objects are tracked; thresholds in seconds, so that they hold at any frame rate."""

    method: Literal["motion", "bytetrack"] = Field(
        "motion",
        description="motion: the built-in tracker, which uses the frames' times; bytetrack: that of Ultralytics.",
    )
    high_confidence: float = Field(
        0.25, ge=0, le=1, description="Boxes with at least this confidence are matched first."
    )
    low_confidence: float = Field(0.1, ge=0, le=1, description="Boxes with a lower confidence are ignored.")
    new_track_confidence: float = Field(
        0.25, ge=0, le=1, description="Only boxes with at least this confidence start a track."
    )
    match_threshold: float = Field(0.8, gt=0, le=1, description="Largest matching cost (1 - IoU x confidence).")
    lost_s: float = Field(
        0.5,
        ge=0,
        description="An object without a box for longer than this many seconds is continued by links only.",
    )
    link_s: float = Field(
        3.0,
        ge=0,
        description="A track that starts where another ended at most this many seconds before continues it; 0: never.",
    )
    min_link_confidence: float = Field(
        0.6, ge=0, le=1, description="Links of lower confidence join no tracks and fill no gaps."
    )
    min_duration_s: float = Field(
        0.4,
        ge=0,
        description="Tracks with boxes for less than this many seconds in all, where unusually unconfident boxes count "
        "less, and tracks with one box, are dropped as noise.",
    )
    min_best_confidence: float = Field(
        0.5, ge=0, le=1, description="Tracks whose best box has a lower confidence are dropped as noise."
    )


class CropSettings(Section):
    """Which crops of a track are stored."""

    cut_from: Literal["normalized", "source"] = Field(
        "normalized",
        description="normalized: crops are cut from the normalized video; source: from the recording's file, at full "
        "resolution.",
    )
    per_track: int = Field(3, ge=1, le=50, description="At most this many crops per track, best first.")
    min_side_px: int = Field(16, ge=1, description="Boxes with a shorter side, in pixels, give no crop.")
    padding: float = Field(0.25, ge=0, le=1, description="Margin around the box, as a share of its size.")
    jpeg_quality: int = Field(90, ge=1, le=100, description="JPEG quality of the crops.")
