"""Settings of ingest: which files are recordings, how they are normalized, and how scenes are detected."""

import re
from typing import Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from resources.config.section import Section, Share, TimeZone

# File names of cameras, recorders and phones, in the order in which the patterns are tried.
_YEAR, _MONTH, _DAY = r"(?<!\d)(?P<year>20\d\d)", r"(?P<month>\d\d)", r"(?P<day>\d\d)"
_HOUR, _MINUTE, _SECOND = r"(?P<hour>\d\d)", r"(?P<minute>\d\d)", r"(?P<second>\d\d)"
_DATE = _YEAR + "[-_.]?" + _MONTH + "[-_.]?" + _DAY
_DAY_FOLDER = _YEAR + "[-_./]?" + _MONTH + "[-_./]?" + _DAY + "/"

_CAPTURED_AT_PATTERNS = (
    # Pixel phones, in UTC: PXL_20260131_120000123.mp4
    "(?P<utc>PXL)_" + _DATE.removeprefix(r"(?<!\d)") + "_" + _HOUR + _MINUTE + _SECOND + r"(?P<fraction>\d{3})?",
    # ISO 8601 with a time zone: 2026-01-31T12:00:00.5+01:00, 20260131T120000Z
    _DATE + "[T_ ]" + _HOUR + "[-_:.]?" + _MINUTE + "[-_:.]?" + _SECOND
    + r"(?:[.,](?P<fraction>\d{1,6}))?(?P<zone>Z|\+\d\d:?\d\d|-\d\d:\d\d)(?!\d)",
    # 2026-01-31 at 3.04.05 PM
    _DATE + r"(?: |_)(?:at(?: |_))?(?P<hour>\d\d?)[-_:.]" + _MINUTE + "[-_:.]" + _SECOND + r"\s?(?P<half>[AP]M)",
    # 2026-01-31_12-00-00, 20260131120000, 20260131_120000123, 2026-01-31 at 12.00.00, NVR_ch1_20260131120000_2026…
    _DATE + "(?:[-_T. ]| at |_at_)?" + _HOUR + "[-_:.]?" + _MINUTE + "[-_:.]?" + _SECOND
    + r"(?P<fraction>\d{3})?(?!\d)",
    # 2026-01-31 12.30
    _DATE + "(?:[-_T. ]| at |_at_)" + _HOUR + "[-:.h]" + _MINUTE + r"(?!\d)",
    # The day is a folder and the time a file name: 2026-01-31/12.00.00-12.30.00[M].dav, 20260131/12/30.mp4
    _DAY_FOLDER + r"[^/]*?(?<!\d)" + _HOUR + "[-_:.]?" + _MINUTE + "[-_:.]?" + _SECOND + r"(?!\d)",
    _DAY_FOLDER + _HOUR + "/" + _MINUTE + r"(?!\d)",
    # Seconds or milliseconds since 1970: camera_1769860800.mp4
    r"(?<!\d)(?P<epoch>1\d{9}(?:\d{3})?)(?!\d)",
)  # fmt: skip


_NUMBER_GROUPS = ("year", "month", "day", "hour", "minute", "second")
_CONTEXT = re.compile(r"\(\?[=!<]|\(\?P=|\\[1-9]")  # lookaround and backreferences


def _group_expression(pattern: str, name: str) -> str:
    """The expression inside a named group of a valid regular expression."""
    start = position = pattern.index(f"(?P<{name}>") + len(f"(?P<{name}>")
    depth, class_start = 1, -1
    while depth and position < len(pattern):
        character = pattern[position]
        if character == "\\":
            position += 1
        elif class_start >= 0:
            # A bracket at the start of a set belongs to the set.
            is_end = character == "]" and pattern[class_start + 1 : position].lstrip("^")
            class_start = -1 if is_end else class_start
        elif character == "[":
            class_start = position
        else:
            depth += {"(": 1, ")": -1}.get(character, 0)
        position += 1
    return pattern[start : position - 1]


def _can_match_number(expression: str, flags: int) -> bool:
    """Whether an expression matches any number of up to four digits; True if that depends on what is around it."""
    if _CONTEXT.search(expression):
        return True
    numbers = (text for number in range(10_000) for text in {f"{number}", f"{number:02}", f"{number:04}"})
    return any(re.fullmatch(expression, text, flags) for text in numbers)


class IngestSettings(Section):
    """When a file in a watched folder is ingested, and when it was recorded."""

    settle_s: float = Field(
        3.0, ge=0, description="A file is ingested once its size and mtime have been stable for this time, in seconds."
    )
    incomplete_settle_s: float = Field(
        30.0,
        ge=0,
        description="The same for a file just written whose container is incomplete (MP4 without moov), in seconds.",
    )
    extensions: tuple[str, ...] = Field(
        (
            "3gp", "asf", "avi", "dav", "flv", "h264", "h265", "hevc", "264", "265", "ivf", "m2ts", "m4v", "mkv",
            "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "ogv", "ts", "vob", "webm", "wmv",
        ),
        max_length=1000,
        description="File name extensions that are ingested.",
    )  # fmt: skip
    captured_at_patterns: tuple[str, ...] = Field(
        _CAPTURED_AT_PATTERNS,
        max_length=100,
        description="Regular expressions that find the start time in a file's path, tried in order. Named groups: "
        "year, month, day, hour, minute and, where present, second, fraction, half (AM or PM), zone (Z or +hh:mm), "
        "utc (any match means UTC); or epoch (seconds or milliseconds since 1970).",
    )
    time_zone: TimeZone = Field("UTC", description="Time zone of the times in file names (IANA name).")

    @field_validator("extensions")
    @classmethod
    def _normalize_extensions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(extension.lower().lstrip(".") for extension in value)

    @field_validator("captured_at_patterns")
    @classmethod
    def _check_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                expression = re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
            groups = set(expression.groupindex)
            missing_groups = {"year", "month", "day", "hour", "minute"} - groups
            if missing_groups and "epoch" not in groups:
                raise ValueError(f"{pattern!r} lacks the named groups {sorted(missing_groups)}")
            for name in sorted(groups & set(_NUMBER_GROUPS)) if not expression.flags & re.VERBOSE else ():
                if not _can_match_number(_group_expression(pattern, name), expression.flags):
                    raise ValueError(f"{pattern!r} has the named group {name}, which matches no number: use digits")
        return value


class VideoSettings(Section):
    """How recordings are normalized: upright, square pixels, progressive 8-bit H.264 at a constant rate in MP4."""

    max_height_px: int | None = Field(
        1080, ge=64, description="Taller frames are scaled down to this height in pixels; null keeps every size."
    )
    max_rate_fps: float | None = Field(
        None, ge=0.001, description="Higher frame rates are decimated to this one; null keeps every frame."
    )
    every_nth: int = Field(1, ge=1, le=10_000, description="Keep only every n-th frame of the source.")
    max_gap_fill_s: float = Field(
        1.0,
        ge=0,
        description="Gaps in the source up to this many seconds are filled with duplicated frames; longer ones are "
        "stored in frames.gap_s.",
    )
    start_s: float = Field(0.0, ge=0, description="Frames before this time, in seconds, are left out.")
    end_s: float | None = Field(
        None, gt=0, description="Frames from this time on, in seconds, are left out; null keeps all."
    )
    region: tuple[Share, Share, Share, Share] | None = Field(
        None,
        description="Region of interest: left, top, right, bottom as shares of the upright frame; null keeps all.",
    )
    is_colour: bool = Field(True, description="false converts to grayscale.")
    crf: int = Field(23, ge=0, le=51, description="H.264 quality when encoding: lower is better and larger.")
    encoder: Literal["software", "hardware"] = Field(
        "software", description="hardware: the GPU's encoder where one works; software: the same output on any machine."
    )
    hardware_decoding: Literal["auto", "off"] = Field(
        "auto",
        description="auto: decode on an NVIDIA GPU where possible, otherwise on the CPU; off: always on the CPU.",
    )
    when_conforming: Literal["remux", "reference", "encode"] = Field(
        "remux",
        description="A recording that already conforms to the normalized format is remuxed without encoding (remux), "
        "read where it is (reference: MP4 and MOV; the file must stay there), or encoded all the same (encode).",
    )
    max_pixels: int = Field(
        64_000_000, gt=0, description="A recording whose frame size exceeds this many pixels is rejected."
    )
    max_memory_mb: int = Field(
        6000, ge=500, le=10_000_000, description="A recording whose decoding needs more memory, in MB, is rejected."
    )
    stall_s: float = Field(
        60.0, gt=0, le=86_400, description="Decoding without progress for this time, in seconds, is stopped."
    )

    @model_validator(mode="after")
    def _check_ranges(self) -> "VideoSettings":
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"end_s ({self.end_s:g}) must be greater than start_s ({self.start_s:g})")
        if self.region and not (self.region[0] < self.region[2] and self.region[1] < self.region[3]):
            raise ValueError(
                f"region must be left, top, right, bottom, with left < right and top < bottom, not {list(self.region)}"
            )
        return self

    @property
    def output_settings(self) -> "VideoSettings":
        """The settings that determine the output; hardware decoding, memory and stall limits have their defaults."""
        default = VideoSettings()
        return self.model_copy(
            update={name: getattr(default, name) for name in ("hardware_decoding", "max_memory_mb", "stall_s")}
        )


class SceneSettings(Section):
    """How cuts are detected, and which frames count as black, frozen or blurred."""

    cut_score: float = Field(
        0.1, gt=0, le=1, description="A frame whose scene_score reaches this starts a scene (as FFmpeg's scdet)."
    )
    min_scene_s: float = Field(
        0.5, ge=0, description="Cuts closer together than this many seconds, such as flashes, count once."
    )
    min_stretch_s: float = Field(
        2.0, ge=0, description="Black, frozen or blurred stretches shorter than this many seconds are ignored."
    )
    black_share: float = Field(0.98, gt=0, le=1, description="A frame is black when this share of its pixels is.")
    frozen_below: float = Field(
        0.1, ge=0, description="A frame is frozen when its motion (0 to 255) is not above this."
    )
    blurred_below: float = Field(15.0, ge=0, description="A frame is blurred when its sharpness is below this.")
