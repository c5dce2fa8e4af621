"""The user's settings: `pipeline.yaml`, every key optional, typed here.

Which recordings, which data folder and which weights may also be given by environment variables, which is
how one set of settings serves several folders:
CV_ASSETS_SETTINGS (this file), CV_ASSETS_WATCHED_FOLDER, CV_ASSETS_DATA, CV_ASSETS_WEIGHTS.
"""

import difflib
import functools
import hashlib
import itertools
import json
import os
import re
import zoneinfo
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from resources.errors import PipelineError

PROJECT_ROOT = Path(__file__).resolve().parent.parent

SETTINGS_VARIABLE = "CV_ASSETS_SETTINGS"
_VALUE_VARIABLES = {
    "CV_ASSETS_WATCHED_FOLDER": ("watched_folder",),
    "CV_ASSETS_DATA": ("data_folder",),
    "CV_ASSETS_WEIGHTS": ("detections", "weights"),
}

_LONGEST_QUOTE = 100

# How cameras, recorders and phones name their files, in the order in which the patterns are tried.
_YEAR, _MONTH, _DAY = r"(?<!\d)(?P<year>20\d\d)", r"(?P<month>\d\d)", r"(?P<day>\d\d)"
_HOUR, _MINUTE, _SECOND = r"(?P<hour>\d\d)", r"(?P<minute>\d\d)", r"(?P<second>\d\d)"
_DATE = _YEAR + "[-_.]?" + _MONTH + "[-_.]?" + _DAY
_DAY_FOLDER = _YEAR + "[-_./]?" + _MONTH + "[-_./]?" + _DAY + "/"
_CAPTURED_AT_PATTERNS = (
    # Pixel phones name in UTC: PXL_20260131_120000123.mp4
    "(?P<utc>PXL)_" + _DATE.removeprefix(r"(?<!\d)") + "_" + _HOUR + _MINUTE + _SECOND + r"(?P<fraction>\d{3})?",
    # ISO 8601 with its zone: 2026-01-31T12:00:00.5+01:00, 20260131T120000Z
    _DATE + "[T_ ]" + _HOUR + "[-_:.]?" + _MINUTE + "[-_:.]?" + _SECOND
    + r"(?:[.,](?P<fraction>\d{1,6}))?(?P<zone>Z|\+\d\d:?\d\d|-\d\d:\d\d)(?!\d)",
    # 2026-01-31 at 3.04.05 PM
    _DATE + r"(?: |_)(?:at(?: |_))?(?P<hour>\d\d?)[-_:.]" + _MINUTE + "[-_:.]" + _SECOND + r"\s?(?P<half>[AP]M)",
    # 2026-01-31_12-00-00, 20260131120000, 20260131_120000123, 2026-01-31 at 12.00.00, NVR_ch1_20260131120000_2026…
    _DATE + "(?:[-_T. ]| at |_at_)?" + _HOUR + "[-_:.]?" + _MINUTE + "[-_:.]?" + _SECOND
    + r"(?P<fraction>\d{3})?(?!\d)",
    # 2026-01-31 12.30
    _DATE + "(?:[-_T. ]| at |_at_)" + _HOUR + "[-:.h]" + _MINUTE + r"(?!\d)",
    # The day is a folder, the time a file, as recorders export: 2026-01-31/12.00.00-12.30.00[M].dav, 20260131/12/30.mp4
    _DAY_FOLDER + r"[^/]*?(?<!\d)" + _HOUR + "[-_:.]?" + _MINUTE + "[-_:.]?" + _SECOND + r"(?!\d)",
    _DAY_FOLDER + _HOUR + "/" + _MINUTE + r"(?!\d)",
    # Seconds or milliseconds since 1970: camera_1769860800.mp4
    r"(?<!\d)(?P<epoch>1\d{9}(?:\d{3})?)(?!\d)",
)  # fmt: skip


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _known_zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{value!r} is not an IANA time zone such as Europe/Berlin") from error
    return value


Share = Annotated[float, Field(ge=0, le=1)]
TimeZone = Annotated[str, AfterValidator(_known_zone)]


class IntakeSettings(_Section):
    """When a file in the watched folder counts as a recording."""

    settle_s: float = Field(3.0, ge=0, description="A file counts once its size and mtime rested this long.")
    unfinished_settle_s: float = Field(
        30.0,
        ge=0,
        description="A file just written whose own structure says that more is to come must rest this long.",
    )
    extensions: tuple[str, ...] = Field(
        (
            "3gp", "asf", "avi", "dav", "flv", "h264", "h265", "hevc", "264", "265", "ivf", "m2ts", "m4v", "mkv",
            "mov", "mp4", "mpeg", "mpg", "mts", "mxf", "ogv", "ts", "vob", "webm", "wmv",
        ),
        description="File name endings that are taken for recordings.",
    )  # fmt: skip
    captured_at_patterns: tuple[str, ...] = Field(
        _CAPTURED_AT_PATTERNS,
        description="Regular expressions that find the start time in a file's path, tried in order. Named groups: "
        "year, month, day, hour, minute, and if there are any second, fraction, half (AM or PM), zone (Z or +hh:mm), "
        "utc (any match means UTC); or epoch (seconds or milliseconds since 1970).",
    )
    time_zone: TimeZone = Field("UTC", description="Time zone of the clock times in file names (IANA name).")

    @field_validator("extensions")
    @classmethod
    def _lower_without_dot(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(ending.lower().lstrip(".") for ending in value)

    @field_validator("captured_at_patterns")
    @classmethod
    def _compilable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                groups = set(re.compile(pattern).groupindex)
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
            missing = {"year", "month", "day", "hour", "minute"} - groups
            if missing and "epoch" not in groups:
                raise ValueError(f"{pattern!r} lacks the named groups {sorted(missing)}")
        return value


class VideoSettings(_Section):
    """How recordings are normalized."""

    max_height_px: int | None = Field(1080, ge=64, description="Taller pictures are scaled down; null keeps all.")
    max_rate_fps: float | None = Field(None, gt=0, description="Faster recordings are decimated; null keeps all.")
    every_nth: int = Field(1, ge=1, description="Keep only every n-th frame of the source.")
    max_gap_fill_s: float = Field(1.0, ge=0, description="Longer holes in the source are not filled with repeats.")
    start_s: float = Field(0.0, ge=0, description="What the recording shows before this time is left out.")
    end_s: float | None = Field(None, gt=0, description="What it shows from this time on is left out; null keeps all.")
    region: tuple[Share, Share, Share, Share] | None = Field(
        None,
        description="Region of interest: left, top, right, bottom as shares of the upright picture; null keeps all.",
    )
    is_colour: bool = Field(True, description="false makes pictures grey.")
    crf: int = Field(23, ge=0, le=51, description="H.264 quality where we encode: lower is better and larger.")
    encoder: Literal["software", "hardware"] = Field(
        "software", description="hardware: the GPU's encoder where one works; software gives the same on any machine."
    )
    hardware_decoding: Literal["auto", "off"] = Field(
        "auto", description="auto: decode on an NVIDIA GPU where there is one, on the CPU what it cannot."
    )
    when_conforming: Literal["remux", "reference", "encode"] = Field(
        "remux",
        description="A recording that already is what we write is copied without re-encoding (remux), read where it is "
        "(reference: MP4 and MOV; it must stay there), or encoded all the same.",
    )
    max_pixels: int = Field(64_000_000, gt=0, description="A picture claiming more pixels than this is refused.")
    max_memory_mb: int = Field(6000, ge=500, description="A recording whose decoding needs more memory is refused.")
    stall_s: float = Field(60.0, gt=0, description="Decoding that makes no progress for so long is given up.")

    @model_validator(mode="after")
    def _ordered(self) -> "VideoSettings":
        if self.end_s is not None and self.end_s <= self.start_s:
            raise ValueError(f"end_s ({self.end_s:g}) must be later than start_s ({self.start_s:g})")
        if self.region and not (self.region[0] < self.region[2] and self.region[1] < self.region[3]):
            raise ValueError(
                f"region {list(self.region)} must be left, top, right, bottom, with left < right, top < bottom"
            )
        return self

    @property
    def made(self) -> "VideoSettings":
        """These settings less those that only say how or within what bounds the work is done, not what comes out."""
        default = VideoSettings()
        return self.model_copy(
            update={name: getattr(default, name) for name in ("hardware_decoding", "max_memory_mb", "stall_s")}
        )


class SceneSettings(_Section):
    """Where cuts are, and what counts as black, frozen or blurred."""

    cut_score: float = Field(
        0.1, gt=0, le=1, description="A frame whose scene_score reaches this begins a scene (as ffmpeg's scdet)."
    )
    min_scene_s: float = Field(0.5, ge=0, description="Cuts closer together than this, such as flashes, count once.")
    min_stretch_s: float = Field(2.0, ge=0, description="Shorter black, frozen or blurred stretches are not told.")
    black_share: float = Field(0.98, gt=0, le=1, description="A frame is black when this share of it is.")
    frozen_below: float = Field(
        0.1, ge=0, description="A frame is frozen when its motion is not above this (0 to 255)."
    )
    blurred_below: float = Field(15.0, ge=0, description="A frame is blurred when its sharpness is below this.")


Polygon = tuple[tuple[float, float], ...]


class DetectionSettings(_Section):
    """One model: its weights, how it is run, and what of its answers is kept."""

    task: Literal["detect", "segment", "pose", "obb", "classify"] = Field(
        "detect", description="What the weights were trained for; decides which tables the model fills."
    )
    weights: str = Field(
        "yolo26n.pt",
        description="An Ultralytics model (.pt), or its export as .onnx or OpenVINO folder: a path, or a name looked "
        "for in weights/ and, if Ultralytics publishes it, fetched there once.",
    )
    engine: Literal["auto", "openvino", "torch"] = Field(
        "auto", description="auto: torch, or TensorRT where it is installed, on a GPU; OpenVINO on a CPU."
    )
    precision: Literal["auto", "f32", "f16", "bf16", "int8"] = Field(
        "auto",
        description="auto: what this machine can do is measured once on your own footage, and the fastest that agrees "
        "with the f32 reference is kept.",
    )
    min_agreement: float = Field(
        0.98,
        ge=0,
        le=1,
        description="auto leaves out what finds fewer of the reference's boxes, or more that it lacks; on little "
        "footage int8 and TensorRT must be twice as right.",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda:\d+)$", description="auto, cpu, cuda:N or mps.")
    image_size_px: int | None = Field(
        None, ge=32, description="Longer side of the model's input; null: the size it was trained with."
    )
    min_confidence: float = Field(
        0.1, gt=0, lt=1, description="Boxes under this are not stored; the tracker uses the weak ones."
    )
    nms_iou: float = Field(0.7, gt=0, le=1, description="Of two boxes of a class overlapping more, the better stays.")
    max_per_frame: int = Field(300, ge=1, description="At most this many boxes a frame, the best first.")
    class_names: tuple[str, ...] | None = Field(
        None, min_length=1, description="Keep only these classes; null keeps all that the model knows."
    )
    max_rate_fps: float | None = Field(
        None, gt=0, description="Look at no more frames a second than this; null looks at every frame."
    )
    skip_static: bool = Field(
        False, description="Frames that look like the last one the model saw get its boxes without being looked at."
    )
    regions: dict[str, tuple[Polygon, ...]] = Field(
        {},
        description="By camera (* for all others), polygons of [x, y] as shares of width and height: only boxes whose "
        "centre lies in one are kept, and only that part of the picture is looked at.",
    )

    def region_of(self, camera: str | None) -> tuple[Polygon, ...]:
        """Where boxes of a camera's pictures are kept; no polygons mean everywhere."""
        return self.regions.get(camera or "", self.regions.get("*", ()))

    @field_validator("regions")
    @classmethod
    def _polygons_inside(cls, value: dict[str, tuple[Polygon, ...]]) -> dict[str, tuple[Polygon, ...]]:
        for camera, polygons in value.items():
            for polygon in polygons:
                if len(polygon) < 3 or not all(0 <= share <= 1 for point in polygon for share in point):
                    raise ValueError(f"{camera}: a polygon has three or more corners [x, y], each from 0 to 1")
        return value


class ModelSettings(DetectionSettings):
    """A further model: everything that `detections` has, and a name."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9_]{0,29}$", description="Its tables are called after it, such as plates_detections."
    )
    weights: str = Field(description="As for detections.")


class TrackSettings(_Section):
    """How objects are followed; times in seconds, so that they hold at any frame rate."""

    method: Literal["motion", "bytetrack"] = Field(
        "motion", description="motion: our own, which knows the frames' times; bytetrack: that of Ultralytics."
    )
    high_confidence: float = Field(0.25, ge=0, le=1, description="Boxes from here up are matched first.")
    low_confidence: float = Field(0.1, ge=0, le=1, description="Boxes under this are ignored.")
    new_track_confidence: float = Field(0.25, ge=0, le=1, description="Only boxes from here up start a track.")
    match_threshold: float = Field(0.8, gt=0, le=1, description="Largest matching cost (1 - IoU x confidence).")
    lost_s: float = Field(1.2, ge=0, description="A track unseen for longer ends; a later box starts another.")
    min_duration_s: float = Field(
        0.2, ge=0, description="Tracks seen for less than this in all, or once, are taken for noise and dropped."
    )
    min_best_confidence: float = Field(
        0.5, ge=0, le=1, description="Tracks whose surest box is under this are taken for noise and dropped."
    )
    interpolate_s: float = Field(
        1.2, ge=0, description="Gaps in a track up to this long are filled with boxes marked is_interpolated."
    )
    stitch_s: float = Field(
        3.0, ge=0, description="A track that begins where another ended within this time goes on with it; 0: never."
    )


Points = tuple[tuple[float, float], ...]
Edge = tuple[tuple[float, float], tuple[float, float]]


class ZoneSettings(_Section):
    """A named area of the picture, inside a polygon."""

    name: str = Field(min_length=1, description="How tables call it.")
    points: Points = Field(description="The polygon's corners in order, [x, y] each, from the picture's top left.")

    @field_validator("points")
    @classmethod
    def _simple(cls, value: Points) -> Points:
        if len(value) < 3:
            raise ValueError(f"a zone needs at least 3 points, not {len(value)}")
        edges = list(zip(value, value[1:] + value[:1], strict=True))
        for first, one in enumerate(edges):
            for second, other in enumerate(edges[first + 1 :], first + 1):
                is_neighbour = second - first in (1, len(edges) - 1)
                if not is_neighbour and _do_cross(one, other):
                    raise ValueError(
                        f"the zone's outline crosses itself: the edge from point {first + 1} meets the edge from point "
                        f"{second + 1} (counted from 1); give the corners in order"
                    )
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in edges) / 2
        if abs(area) < 1e-9:
            raise ValueError("the zone has no area: its points lie on one line")
        return value


class LineSettings(_Section):
    """A named line through the picture with a direction: `in` is from its left hand to its right, seen along it."""

    name: str = Field(min_length=1, description="How tables call it.")
    points: Points = Field(description="Two or more points in order, [x, y] each, from the picture's top left.")

    @field_validator("points")
    @classmethod
    def _has_length(cls, value: Points) -> Points:
        if len(value) < 2:
            raise ValueError(f"a line needs at least 2 points, not {len(value)}")
        for number, (one, other) in enumerate(itertools.pairwise(value), start=1):
            if one == other:
                raise ValueError(f"points {number} and {number + 1} of the line are the same")
        return value


class GroundSettings(_Section):
    """Where points of the picture are on the ground, so that positions and speeds are known in metres."""

    points: Points = Field(description="Four or more points of the picture on one flat ground, [x, y] each.")
    metres: Points = Field(description="The same points on the ground, [x, y] each, on axes of your choice.")

    @model_validator(mode="after")
    def _solvable(self) -> Self:
        if len(self.points) != len(self.metres):
            raise ValueError(
                f"{len(self.points)} points and {len(self.metres)} positions in metres: give as many of each"
            )
        if len(self.points) < 4:
            raise ValueError(f"the ground needs at least 4 points, not {len(self.points)}")
        for told, points in (("points", self.points), ("metres", self.metres)):
            if sum(_is_corner(*three) for three in itertools.combinations(points, 3)) < 4:
                raise ValueError(f"too many of the {told} lie on one line: choose four corners of an area")
        return self


class CameraSettings(_Section):
    """What is particular to one camera: its clock, and the areas and lines that people drew over its picture."""

    time_zone: TimeZone | None = Field(None, description="Time zone of its clock; null: as intake.time_zone.")
    clock_offset_s: float = Field(0.0, description="Added to the times its clock wrote; negative if it is fast.")
    video: VideoSettings | None = Field(None, description="Settings of video that differ for this camera.")
    units: Literal["relative", "px"] = Field(
        "relative", description="relative: 0 to 1 of width and height; px: pixels of the normalized video."
    )
    anchor: Literal["bottom_centre", "centre"] = Field(
        "bottom_centre", description="The point of a box that enters zones and crosses lines."
    )
    hysteresis: float = Field(
        0.1, ge=0, le=1, description="An object must get this far from a border, in heights of its box, to count."
    )
    standing_speed: float = Field(
        0.25, ge=0, description="Slower than this, in heights of its box a second, an object stands in a queue."
    )
    zones: tuple[ZoneSettings, ...] = Field((), description="Areas: enter, exit, dwell, occupancy, queue.")
    lines: tuple[LineSettings, ...] = Field((), description="Lines: crossings in and out, ways, speeds between them.")
    ground: GroundSettings | None = Field(None, description="Four or more points and their places in metres.")
    joined_within_s: float = Field(
        0.0,
        ge=0,
        description="A recording starting this soon after the one before goes on with its objects; 0: never.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [zone.name for zone in self.zones] + [line.name for line in self.lines]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two zones or lines are called {', '.join(repeated)}: every name must be its own")
        for told, points in self._all_points():
            for x, y in points:
                if min(x, y) < 0 or (self.units == "relative" and max(x, y) > 1):
                    hint = "; for pixels say units: px" if self.units == "relative" and max(x, y) > 1 else ""
                    raise ValueError(f"{told} has the point [{x:g}, {y:g}] outside the picture{hint}")
        return self

    def _all_points(self) -> Iterator[tuple[str, Points]]:
        yield from ((f"the zone {zone.name}", zone.points) for zone in self.zones)
        yield from ((f"the line {line.name}", line.points) for line in self.lines)
        if self.ground:
            yield "the ground", self.ground.points

    def said(self, *names: str) -> str:
        """What is said of some settings, as JSON; empty where all are left as they are."""
        said = self.model_dump_json(include={*names}, exclude_defaults=True)
        return "" if said == "{}" else said

    def outside(self, width_px: int, height_px: int) -> str | None:
        """A sentence on a point that lies outside a picture of this size; None when all lie inside."""
        if self.units == "px":
            for told, points in self._all_points():
                for x, y in points:
                    if x > width_px or y > height_px:
                        return f"{told} has the point [{x:g}, {y:g}] outside the picture of {width_px} x {height_px} px"
        return None


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _is_corner(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether three points span an area that is more than rounding, as a share of their extent."""
    extent = max(abs(p[i] - q[i]) for p in (a, b, c) for q in (a, b, c) for i in (0, 1))
    return abs(_turn(a, b, c)) > 1e-6 * extent * extent


def _do_cross(one: Edge, other: Edge) -> bool:
    return (_turn(*one, other[0]) > 0) != (_turn(*one, other[1]) > 0) and (
        (_turn(*other, one[0]) > 0) != (_turn(*other, one[1]) > 0)
    )


class CropSettings(_Section):
    """Which pictures of a track are kept."""

    per_track: int = Field(3, ge=1, le=50, description="At most this many pictures of a track, best first.")
    min_side_px: int = Field(16, ge=1, description="Smaller boxes are not cut out.")
    padding: float = Field(0.05, ge=0, le=1, description="Margin around the box, as a share of its size.")
    jpeg_quality: int = Field(90, ge=1, le=100, description="JPEG quality of the pictures.")


class BatchSettings(_Section):
    """How much one run takes on: the model is loaded once per run."""

    max_recordings: int = Field(30, ge=1, description="At most this many recordings a run.")
    max_footage_minutes: float = Field(60, gt=0, description="At most about this much footage a run.")
    checkpoint_s: float = Field(
        60, gt=0, description="Of a killed run, finished parts of a recording of this length need not be done again."
    )
    max_attempts: int = Field(2, ge=1, description="A failed recording is tried this often in all.")


class QueueSettings(_Section):
    """How many runs work at once, however they were launched; the daemon reads it when it starts."""

    gpu_runs: int = Field(
        2,
        ge=1,
        description="Runs with a model stage. One more than there are devices overlaps the other work of one run with "
        "the model of another; a device still serves one model stage at a time.",
    )
    cpu_runs: int = Field(2, ge=1, description="Runs without one, such as ingest, each of which uses a core or two.")


class RetentionSettings(_Section):
    """What is removed after some days; null: never."""

    daily_at_hour_utc: int | None = Field(3, ge=0, le=23, description="When; null: never anything.")
    runs_after_days: float | None = Field(
        30, ge=0, description="Ended runs that hold nobody's newest results, with their events."
    )
    logs_after_days: float | None = Field(14, ge=0, description="What the steps of ended runs wrote to their outputs.")
    media_after_days: float | None = Field(
        None, ge=0, description="Normalized videos made so long ago; what was found in them stays."
    )
    crops_after_days: float | None = Field(None, ge=0, description="Pictures of crops made so long ago; rows stay.")
    close_after_days: float | None = Field(
        None,
        ge=0,
        description="Recordings done so long ago are no partitions of Dagster any more; all their rows stay. For "
        "archives past 100,000 recordings.",
    )


class EnvironmentVariable(_Section):
    """A secret that the pipeline finds in its environment, so that it need not stand in a file."""

    env: str = Field(min_length=1, description="Name of the variable.")


Secret = SecretStr | EnvironmentVariable
Topic = Literal["success", "failure", "recovered", "silent"]


class ChannelSettings(_Section):
    """A way by which people are told."""

    name: str = Field(pattern=r"^[\w.-]{1,40}$", description="How the table notifications calls it.")
    events: tuple[Topic, ...] = Field(
        get_args(Topic),
        description="success: a recording came through; failure: one failed for good, or work is on hold; recovered: "
        "what had failed or waited is done; silent: nothing arrives from a camera, or something does again.",
    )
    ca_file: Path | None = Field(
        None, description="Certificates (PEM) that its server's is checked against; null: those of the system."
    )


class WebhookSettings(ChannelSettings):
    """A channel that is an address to which messages are posted."""

    url: Secret = Field(description="Where to: http(s)://…, or {env: NAME}.")
    format: Literal["json", "slack", "teams"] = Field(
        "json", description="json: every field; slack: an incoming webhook; teams: a webhook of Workflows."
    )

    @field_validator("url")
    @classmethod
    def _web_address(cls, value: Secret) -> Secret:
        if isinstance(value, SecretStr):
            web_address(value.get_secret_value())
        return value


class MailSettings(ChannelSettings):
    """A channel that is a mail server."""

    host: str = Field(min_length=1, description="The server.")
    port: int | None = Field(None, ge=1, le=65535, description="null: 25, with starttls 587, with ssl 465.")
    security: Literal["none", "starttls", "ssl"] = Field("starttls", description="How the connection is encrypted.")
    user: str | None = Field(None, description="Who logs in; null: nobody does.")
    password: Secret | None = Field(None, description="The user's: {env: NAME}, or the password itself.")
    sender: str = Field(pattern=r"^[^\s@]+@[^\s@]+$", description="Address that the mails are from.")
    recipients: tuple[Annotated[str, Field(pattern=r"^[^\s@]+@[^\s@]+$")], ...] = Field(
        min_length=1, description="Addresses that they are sent to."
    )

    @model_validator(mode="after")
    def _can_log_in(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together: give both or neither")
        return self


class NotificationSettings(_Section):
    """Who is told of what; nobody, unless a channel is named here."""

    every_s: int = Field(30, ge=1, description="News are told this often, in one message a channel.")
    backlog_from: int = Field(20, ge=1, description="So many waiting recordings are a backlog, whose end is told.")
    silent_after_h: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description='By camera (* for all others, "": beside the folders): tell when nothing arrived for so long.'
    )
    webhooks: tuple[WebhookSettings, ...] = Field((), description="Channels that are web addresses.")
    mails: tuple[MailSettings, ...] = Field((), description="Channels that are mail servers.")

    @property
    def channels(self) -> tuple[WebhookSettings | MailSettings, ...]:
        """All channels."""
        return (*self.webhooks, *self.mails)

    def silence_of(self, camera: str) -> float | None:
        """After how many hours without a file a camera is silent; None: it may be silent for ever."""
        return self.silent_after_h.get(camera, self.silent_after_h.get("*"))

    @model_validator(mode="after")
    def _different_names(self) -> Self:
        names = [channel.name for channel in self.channels]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two channels are called {repeated[0]}")
        return self


def web_address(text: str) -> str:
    """A web address as it is given.

    Raises:
        ValueError: It is none. The address is not quoted, because it may be a secret.
    """
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or not text.isascii() or any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("the address must be like https://host/path, of ASCII letters and without spaces")
    return text


class Settings(_Section):
    """All settings. Folders are relative to the settings file's own folder."""

    watched_folder: Path = Field(Path("recordings"), description="Recordings are dropped here; only ever read.")
    further_watched_folders: tuple[Path, ...] = Field((), description="More folders that are watched in the same way.")
    data_folder: Path = Field(Path("data"), description="Tables, normalized video and Dagster's own storage.")
    intake: IntakeSettings = IntakeSettings()
    video: VideoSettings = VideoSettings()
    scenes: SceneSettings = SceneSettings()
    detections: DetectionSettings = DetectionSettings()
    models: tuple[ModelSettings, ...] = Field((), description="Further models, each an asset of its own.")
    tracks: TrackSettings = TrackSettings()
    crops: CropSettings = CropSettings()
    batches: BatchSettings = BatchSettings()
    queue: QueueSettings = QueueSettings()
    cameras: dict[str, CameraSettings] = Field(
        default={},
        description='By camera, the first folder under the watched folder ("": recordings beside the folders): what is '
        "particular to it.",
    )
    notifications: NotificationSettings = NotificationSettings()
    retention: RetentionSettings = RetentionSettings()

    @property
    def watched_folders(self) -> tuple[Path, ...]:
        """The watched folder and all further ones."""
        return (self.watched_folder, *self.further_watched_folders)

    @property
    def every_model(self) -> tuple[DetectionSettings, ...]:
        """The detector of the walk and all further models."""
        return (self.detections, *self.models)

    def camera(self, name: str | None) -> CameraSettings:
        """The settings of a camera; defaults for one that is not named, and for recordings beside the folders."""
        return self.cameras.get(name or "", CameraSettings())

    def video_of(self, camera: str | None) -> VideoSettings:
        """How recordings of a camera are normalized: `video`, save what the camera sets itself."""
        own = self.camera(camera).video
        return (
            self.video if own is None else VideoSettings(**{**dict(self.video), **own.model_dump(exclude_unset=True)})
        )

    @field_validator("models")
    @classmethod
    def _different_names(cls, value: tuple[ModelSettings, ...]) -> tuple[ModelSettings, ...]:
        names = [model.name for model in value]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two models are called {repeated[0]}")
        return value


def load_settings(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings file and the environment variables that override it.

    Args:
        path: The settings file; None means CV_ASSETS_SETTINGS or, failing that, pipeline.yaml beside the code.
        environment: Where the overriding variables are looked up.

    Returns:
        Settings whose folders and weights file (when a file was named) are absolute paths.

    Raises:
        PipelineError: The file cannot be read, is not YAML, has an unknown key or a value of the wrong kind; or the
            data folder lies inside the watched folder.
    """
    named = path or (Path(environment[SETTINGS_VARIABLE]) if environment.get(SETTINGS_VARIABLE) else None)
    file = (named or PROJECT_ROOT / "pipeline.yaml").expanduser().absolute()
    values: dict[str, Any] = {}
    if named is not None or file.exists():
        values = _read_yaml(file)
    _check_keys(Settings, values, file)
    for variable, keys in _VALUE_VARIABLES.items():
        if environment.get(variable):
            # Paths given on the command line are relative to where it was typed, not to the settings file.
            value = environment[variable]
            section = values
            for key in keys[:-1]:
                section[key] = dict(section.get(key) or {})
                section = section[key]
            section[keys[-1]] = value if variable == "CV_ASSETS_WEIGHTS" else str(Path(value).absolute())
            if variable == "CV_ASSETS_WATCHED_FOLDER":
                values["further_watched_folders"] = []  # this folder is meant, and no other
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ").replace("tuple", "list")
        said = repr(first["input"])
        is_quotable = len(said) <= _LONGEST_QUOTE and not where.startswith("notifications")  # there it may be a secret
        told = f" (it says {said})" if is_quotable else ""
        raise PipelineError(f"{file}: {where}: {message}{told}.") from error
    if "\0" in f"{settings.watched_folder}{settings.data_folder}{settings.detections.weights}":
        raise PipelineError(f"{file}: a path holds a zero byte.")
    settings = settings.model_copy(
        update={
            "detections": _beside(settings.detections, file.parent),
            "models": tuple(_beside(model, file.parent) for model in settings.models),
            "notifications": _with_certificates(settings.notifications, file.parent),
        }
    )
    watched_folder = file.parent / settings.watched_folder.expanduser()
    further = tuple(file.parent / folder.expanduser() for folder in settings.further_watched_folders)
    data_folder = file.parent / settings.data_folder.expanduser()
    settings = settings.model_copy(
        update={"watched_folder": watched_folder, "further_watched_folders": further, "data_folder": data_folder}
    )
    _check_folders(settings, file)
    return settings


def _check_folders(settings: Settings, file: Path) -> None:
    """See that no folder lies in another where it must not."""
    data_folder = settings.data_folder
    every_folder = [folder.resolve() for folder in settings.watched_folders]
    for folder in every_folder:
        if data_folder.resolve().is_relative_to(folder):
            raise PipelineError(
                f"The data folder {data_folder} lies inside the watched folder {folder}, so that results would be "
                "taken for recordings: choose another data_folder (or --data)."
            )
        if others := [other for other in every_folder if other is not folder and other.is_relative_to(folder)]:
            raise PipelineError(
                f"{file}: the watched folder {others[0]} lies in the watched folder {folder}, so that its recordings "
                "would be found twice: name one of them only."
            )
    for model in settings.every_model:
        weights = Path(model.weights).expanduser().resolve()
        if weights.exists() and any(weights.is_relative_to(folder) for folder in every_folder):
            raise PipelineError(
                f"The weights {model.weights} lie in the watched folder, where anybody may drop files, and weights are "
                "programs: move them elsewhere and name that place."
            )


_Model = TypeVar("_Model", bound=DetectionSettings)
_Channel = TypeVar("_Channel", bound=ChannelSettings)


def _beside(model: _Model, folder: Path) -> _Model:
    """The model's settings, its weights as an absolute path where they lie beside the settings file."""
    weights = folder / Path(model.weights).expanduser()
    return model.model_copy(update={"weights": str(weights)}) if weights.exists() else model


def _with_certificates(notifications: NotificationSettings, folder: Path) -> NotificationSettings:
    """The same, each ca_file as an absolute path."""

    def placed(channel: _Channel) -> _Channel:
        file = channel.ca_file and folder / channel.ca_file.expanduser()
        return channel.model_copy(update={"ca_file": file})

    return notifications.model_copy(
        update={
            "webhooks": tuple(placed(channel) for channel in notifications.webhooks),
            "mails": tuple(placed(channel) for channel in notifications.mails),
        }
    )


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that stands twice in one place, of which YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise yaml.YAMLError(f'"{key.value}" stands there twice, the second time in line {line}')
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise PipelineError(f"The settings file {file} cannot be read: {error.strerror or error}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise PipelineError(f"The settings file {file} is not valid YAML: {problem}.") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise PipelineError(f"The settings file {file} must hold keys and values, not a {type(values).__name__}.")
    return values


def _check_keys(model: type[BaseModel], values: Mapping[Any, Any], file: Path, prefix: str = "") -> None:
    """Refuse unknown keys with the nearest valid name, which is what a misspelt key needs."""
    for key, value in values.items():
        field = model.model_fields.get(str(key))
        if field is None:
            near = difflib.get_close_matches(str(key), model.model_fields, n=1, cutoff=0.4)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(model.model_fields)}."
            raise PipelineError(f"{file}: unknown setting {prefix}{key}; {hint}")
        for section, name, part in _sections(field.annotation, f"{prefix}{key}", value):
            if part is None:
                raise PipelineError(f"{file}: {name} is empty; remove it or give it keys.")
            if isinstance(part, Mapping):
                _check_keys(section, part, file, f"{name}.")


def _sections(annotation: Any, name: str, value: Any) -> Iterator[tuple[type[BaseModel], str, Any]]:
    """The sections of a setting: itself, or those in its list or under its keys; type, full name and value of each."""
    for kind in get_args(annotation) or (annotation,):
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            continue
        if get_origin(annotation) is dict:
            yield from ((kind, f"{name}.{key}", v) for key, v in (value.items() if isinstance(value, Mapping) else ()))
        elif get_origin(annotation) is tuple:
            yield from ((kind, f"{name}.{n}", v) for n, v in enumerate(value if isinstance(value, list) else ()))
        elif value is not None or type(None) not in get_args(annotation):
            yield kind, name, value


@functools.cache
def current_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()


def settings_version(*sections: BaseModel | str) -> str:
    """A short hash of the given settings: equal settings give equal versions on any machine."""
    text = json.dumps([s if isinstance(s, str) else s.model_dump(mode="json") for s in sections], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
