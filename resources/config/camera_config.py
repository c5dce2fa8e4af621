"""Settings of single cameras: clock, video, zones, lines and ground plane."""

import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Literal, Self

import numpy as np
from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from resources.config.media_config import VideoSettings
from resources.config.section import MAX_SHAPES, Points, Section, TimeZone
from resources.geometry.zone_geometry import extend_beyond_frame

_MAX_CLOCK_OFFSET_S = 4e9  # more than a century: a clock that was never set begins in 1970
Edge = tuple[tuple[float, float], tuple[float, float]]


class ZoneSettings(Section):
    """A named polygon in the frame."""

    name: str = Field(min_length=1, description="Name of the zone in the tables.")
    points: Points = Field(description="Corners of the polygon in order, [x, y] each, from the top left of the frame.")

    @field_validator("points")
    @classmethod
    def _check_outline(cls, value: Points) -> Points:
        if len(value) < 3:
            raise ValueError(f"a zone needs at least 3 points, not {len(value)}")
        edges = list(zip(value, value[1:] + value[:1], strict=True))
        for first, edge in enumerate(edges):
            for second, later_edge in enumerate(edges[first + 1 :], first + 1):
                is_neighbour = second - first in (1, len(edges) - 1)
                if not is_neighbour and _do_cross(edge, later_edge):
                    raise ValueError(
                        f"the zone's outline crosses itself: the edge from point {first + 1} meets the edge from point "
                        f"{second + 1} (counted from 1); give the corners in order"
                    )
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in edges) / 2
        if abs(area) < 1e-9:
            raise ValueError("the zone has no area: its points lie on one line")
        return value


class LineSettings(Section):
    """A named polyline with a direction: `in` is from its left to its right, seen from its first point to its last."""

    name: str = Field(min_length=1, description="Name of the line in the tables.")
    points: Points = Field(description="Two or more points in order, [x, y] each, from the top left of the frame.")

    @field_validator("points")
    @classmethod
    def _check_length(cls, value: Points) -> Points:
        if len(value) < 2:
            raise ValueError(f"a line needs at least 2 points, not {len(value)}")
        for number, (point, next_point) in enumerate(itertools.pairwise(value), start=1):
            if point == next_point:
                raise ValueError(f"points {number} and {number + 1} of the line are the same")
        return value


class LeftOutSettings(Section):
    """A still object that is left out of counts, such as a sign; the view `repeated_objects` lists candidates."""

    class_name: str = Field(min_length=1, description="Its class in the tables.")
    box: tuple[float, float, float, float] = Field(
        description="Left, top, right and bottom edge, from the top left of the frame, in the unit of points or as "
        "shares; a still track whose box agrees with it by half (IoU) is left out."
    )

    @field_validator("box")
    @classmethod
    def _check_area(cls, value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if value[0] >= value[2] or value[1] >= value[3]:
            raise ValueError("the box has no area: give left, top, right and bottom, in this order")
        return value


class GroundSettings(Section):
    """Homography from the frame to the ground, which gives positions and speeds in metres."""

    points: Points = Field(description="Four or more image points on flat ground, [x, y] each.")
    metres: Points = Field(
        description="Positions of the same points on the ground in metres, [x, y] each, on axes of your choice."
    )

    @model_validator(mode="after")
    def _check_solvable(self) -> Self:
        if len(self.points) != len(self.metres):
            raise ValueError(
                f"the ground has {len(self.points)} points and {len(self.metres)} positions in metres: give as many of "
                "each"
            )
        if len(self.points) < 4:
            raise ValueError(f"the ground needs at least 4 points, not {len(self.points)}")
        # Imported here, so that settings without a ground are read without loading OpenCV.
        from resources.geometry.homography import fit_homography

        fit_homography(np.array(self.points, float), np.array(self.metres, float))
        return self


class CameraSettings(Section):
    """Settings of one camera: clock, video, zones, lines and ground."""

    time_zone: TimeZone | None = Field(
        None, description="Time zone of the camera's clock (IANA name); null: ingest.time_zone."
    )
    clock_offset_s: float = Field(
        0.0,
        ge=-_MAX_CLOCK_OFFSET_S,
        le=_MAX_CLOCK_OFFSET_S,
        description="Seconds added to the times of the camera's clock; negative if the clock is fast.",
    )
    video: VideoSettings | None = Field(None, description="Keys of video that differ for this camera.")
    units: Literal["relative", "px"] = Field(
        "relative",
        description="Unit of points. relative: 0 to 1 of width and height; px: pixels of the normalized video.",
    )
    anchor: Literal["bottom_centre", "centre"] = Field(
        "bottom_centre", description="Point of a box that enters zones and crosses lines."
    )
    hysteresis: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Margin from a border, in heights of its box, that an object must clear for a change of side to "
        "count.",
    )
    standing_speed: float = Field(
        0.25,
        ge=0,
        description="An object slower than this, in heights of its box per second, queues.",
    )
    fixed_to: Literal["frame", "ground"] = Field(
        "frame",
        description="What zones, lines and ground stand still in. ground: they follow the picture of a camera that "
        "pans or shakes, from where they are drawn in the first frame of each recording.",
    )
    zones: tuple[ZoneSettings, ...] = Field(
        (), max_length=MAX_SHAPES, description="Polygons, for entries, exits, dwell time, occupancy and queues."
    )
    lines: tuple[LineSettings, ...] = Field(
        (),
        max_length=MAX_SHAPES,
        description="Polylines with a direction, for crossings in and out, trips and speeds between them.",
    )
    ground: GroundSettings | None = Field(
        None, description="Homography: four or more image points and their positions in metres."
    )
    left_out: tuple[LeftOutSettings, ...] = Field(
        (), max_length=MAX_SHAPES, description="Still objects that are left out of counts: signs, parked cars."
    )
    track_link_gap_s: float = Field(
        0.0,
        ge=0,
        description="Continue tracks in a recording that starts at most this many seconds after the previous one; "
        "0: never.",
    )

    @model_validator(mode="after")
    def _check_shapes(self) -> Self:
        names = [zone.name for zone in self.zones] + [line.name for line in self.lines]
        if repeated := sorted(name for name, count in Counter(names).items() if count > 1):
            raise ValueError(f"two zones or lines have the name {', '.join(repeated)}: every name must be unique")
        for shape, points in self._all_points():
            for x, y in points:
                if min(x, y) < 0 or (self.units == "relative" and max(x, y) > 1):
                    hint = "; for pixels set units: px" if self.units == "relative" and max(x, y) > 1 else ""
                    raise ValueError(f"{shape} has the point [{x:g}, {y:g}] outside the frame{hint}")
        return self

    def _all_points(self) -> Iterator[tuple[str, Points]]:
        yield from ((f"the zone {zone.name}", zone.points) for zone in self.zones)
        yield from ((f"the line {line.name}", line.points) for line in self.lines)
        if self.ground:
            yield "the ground", self.ground.points
        for place in self.left_out:
            yield f"the left out {place.class_name}", (place.box[:2], place.box[2:])

    def own_settings_json(self, *names: str) -> str:
        """The named settings that differ from their defaults, as JSON; empty if none does."""
        settings_json = self.model_dump_json(include={*names}, exclude_defaults=True)
        return "" if settings_json == "{}" else settings_json

    def border_px(self, shape: ZoneSettings | LineSettings, width_px: int, height_px: int) -> np.ndarray:
        """Points of the border of a zone, or of a line, for a frame of this size, in pixels, shape (k, 2).

        Where the shape reaches the edge of the frame it goes on beyond it.
        """
        size_px = width_px, height_px
        points_px = np.array(shape.points) * (size_px if self.units == "relative" else 1)
        return extend_beyond_frame(points_px, size_px, is_closed=isinstance(shape, ZoneSettings))

    def out_of_frame_error(self, width_px: int, height_px: int) -> str | None:
        """The sentence on the first point outside a frame of this size; None if all points are inside."""
        if self.units == "px":
            for shape, points in self._all_points():
                for x, y in points:
                    if x > width_px or y > height_px:
                        return f"{shape} has the point [{x:g}, {y:g}] outside the frame of {width_px} x {height_px} px"
        return None


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Cross product of the vectors a to b and a to c; its sign is the direction of the turn."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _do_cross(first: Edge, second: Edge) -> bool:
    """Whether each edge has its ends on both sides of the other edge."""
    return (_turn(*first, second[0]) > 0) != (_turn(*first, second[1]) > 0) and (
        (_turn(*second, first[0]) > 0) != (_turn(*second, first[1]) > 0)
    )
