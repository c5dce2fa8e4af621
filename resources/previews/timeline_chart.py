"""Timeline charts: how many objects of each class are present over time, with marks for the zone events."""

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from resources.previews.annotated_frames import DARK_COLOURS

if TYPE_CHECKING:
    import pyarrow as pa

TIMELINE_BINS = 160
_CHART_WIDTH, _CHART_LEFT, _LANE_HEIGHT, _LANE_GAP, _AXIS_HEIGHT = 760, 120, 34, 8, 22
_MAX_LANES, _STROKE_WIDTH, _MAX_NAME_LENGTH = 12, 3, 18


def peak_counts_by_class(boxes: "pa.Table", duration_s: float, bin_count: int) -> dict[str, np.ndarray]:
    """Count the objects of each class that are present at the same time, as the maximum in each time bin.

    Args:
        boxes: Rows with class_name, frame_index and time_s, a row per object and frame.
        duration_s: The time that the bins divide.
        bin_count: Number of equal time bins.

    Returns:
        By class, the largest number at the same time in each bin, int arrays of shape (bin_count,); the class with the
        largest sum first.
    """
    import pyarrow.compute as pc

    counts_by_class: dict[str, np.ndarray] = {}
    frame_times_s = np.unique(boxes["time_s"].to_numpy())
    # A frame represents the time until the next analysed frame, which may be longer than a bin.
    frame_duration_s = float(np.median(np.diff(frame_times_s))) if len(frame_times_s) > 1 else 0.0
    for class_name in boxes["class_name"].unique().to_pylist():
        rows = boxes.filter(pc.equal(boxes["class_name"], class_name))
        _, first, count = np.unique(rows["frame_index"].to_numpy(), return_index=True, return_counts=True)
        begin_s = rows["time_s"].to_numpy()[first]
        begin, end = (at_s / max(duration_s, 1e-9) * bin_count for at_s in (begin_s, begin_s + frame_duration_s))
        bin_index, last_bin = begin.astype(int), np.maximum(begin.astype(int), np.ceil(end - 1e-6).astype(int) - 1)
        peak = np.zeros(bin_count, np.int64)
        while len(bin_index):
            np.maximum.at(peak, bin_index.clip(0, bin_count - 1), count)
            has_more = bin_index < last_bin
            bin_index, last_bin, count = bin_index[has_more] + 1, last_bin[has_more], count[has_more]
        counts_by_class[class_name] = peak
    return dict(sorted(counts_by_class.items(), key=lambda item: -int(item[1].sum())))


def timeline_chart(
    lanes: Mapping[str, np.ndarray], marks: Mapping[str, tuple[np.ndarray, np.ndarray]], duration_s: float
) -> str:
    """Draw a lane with the counts of each class, and a lane with a stroke per event for each line and zone.

    Args:
        lanes: By class name, counts in equal time bins, shape (bins,); only the first twelve are drawn.
        marks: By name of the line or zone, event times in seconds, shape (n,), and whether the stroke points up (in),
            bool, shape (n,); only the first twelve are drawn.
        duration_s: The time that the whole width represents.

    Returns:
        An SVG document; browsers render its text with their own fonts, so names may be in any script.
    """
    drawn_lanes, drawn_marks = list(lanes.items())[:_MAX_LANES], list(marks.items())[:_MAX_LANES]
    step = _LANE_HEIGHT + _LANE_GAP
    height = step * max(1, len(drawn_lanes) + len(drawn_marks)) + _LANE_GAP + _AXIS_HEIGHT
    plot_width, bottom = _CHART_WIDTH - _CHART_LEFT - 16, height - _AXIS_HEIGHT
    parts = [f'<rect width="{_CHART_WIDTH}" height="{height}" fill="#fff"/>']
    if not drawn_lanes and not drawn_marks:
        parts.append(f'<text x="{_CHART_LEFT}" y="{bottom - step / 2:.0f}">no objects detected</text>')
    parts.extend(_time_axis(duration_s, plot_width, height))
    for index, (name, counts) in enumerate(drawn_lanes):
        base = _LANE_GAP + index * step + _LANE_HEIGHT
        colour = DARK_COLOURS[index % len(DARK_COLOURS)]
        parts.append(_lane_label(name, base, f"up to {int(counts.max(initial=0))} at once"))
        parts.append(f'<path d="{_step_area(counts, base, plot_width)}" fill="{colour}"/>')
    for index, (name, (times_s, is_up)) in enumerate(drawn_marks, len(drawn_lanes)):
        base = _LANE_GAP + index * step + _LANE_HEIGHT
        parts.append(_lane_label(name, base, f"{int(is_up.sum())} in ↑ {int((~is_up).sum())} out ↓"))
        x = _CHART_LEFT + times_s / max(duration_s, 1e-9) * plot_width
        parts.extend(_event_strokes(x, is_up, base - _LANE_HEIGHT // 2, plot_width))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_CHART_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def _time_axis(duration_s: float, plot_width: int, height: int) -> list[str]:
    parts = []
    tick_s = _tick_interval_s(duration_s)
    for tick in range(int(duration_s / tick_s) + 1):
        x = _CHART_LEFT + tick * tick_s / max(duration_s, 1e-9) * plot_width
        parts.append(f'<path d="M{x:.1f} 0V{height - _AXIS_HEIGHT}" stroke="#e3e6ea"/>')
        label = format_clock(tick * tick_s, tick_s < 1)
        parts.append(f'<text x="{x:.1f}" y="{height - 7}" text-anchor="middle" fill="#666">{label}</text>')
    return parts


def _event_strokes(x: np.ndarray, is_up: np.ndarray, middle: int, plot_width: int) -> list[str]:
    parts = [f'<path d="M{_CHART_LEFT} {middle}h{plot_width}" stroke="#999"/>']
    for points_up, reach, colour in ((True, -_LANE_HEIGHT // 2, "#2f7d32"), (False, _LANE_HEIGHT // 2, "#c53030")):
        # Strokes at the same position are drawn once, so that the document stays small with many events.
        positions = np.unique((x[is_up == points_up] / _STROKE_WIDTH).round() * _STROKE_WIDTH).astype(int).tolist()
        strokes = "".join(f"M{position} {middle}v{reach}" for position in positions)
        parts.append(f'<path d="{strokes}" stroke="{colour}" stroke-width="2"/>' if strokes else "")
    return parts


def _lane_label(name: str, base: int, note: str) -> str:
    short_name = name if len(name) <= _MAX_NAME_LENGTH else name[: _MAX_NAME_LENGTH - 1] + "…"
    return (
        f'<text x="8" y="{base - _LANE_HEIGHT / 2 - 2:.0f}" font-weight="bold">{escape(short_name)}</text>'
        f'<text x="8" y="{base - _LANE_HEIGHT / 2 + 12:.0f}" fill="#666">{note}</text>'
    )


def _step_area(counts: np.ndarray, base: int, plot_width: int) -> str:
    """SVG path of a stepped area on the line `base`; consecutive bins with equal counts are one step."""
    peak, bin_width = max(1, int(counts.max(initial=0))), plot_width / max(1, len(counts))
    changes = np.flatnonzero(np.diff(counts, prepend=0))
    steps = "".join(
        f"H{_CHART_LEFT + at * bin_width:.0f}V{base - counts[at] / peak * _LANE_HEIGHT:.0f}" for at in changes.tolist()
    )
    return f"M{_CHART_LEFT} {base}{steps}H{_CHART_LEFT + plot_width}V{base}Z"


def _tick_interval_s(duration_s: float) -> float:
    """A round number of seconds that divides the duration into at most ten intervals."""
    for interval_s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400):
        if duration_s / interval_s <= 10:
            return interval_s
    return duration_s / 10


def format_clock(time_s: float, tenths: bool = False) -> str:
    """Format a media time as 0:07 or 1:02:03, or as 0:07.3 with tenths of a second."""
    minutes, seconds = divmod(round(time_s, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    seconds_text = f"{seconds:04.1f}" if tenths else f"{int(seconds):02d}"
    return f"{hours}:{minutes:02d}:{seconds_text}" if hours else f"{minutes}:{seconds_text}"
