"""Pictures for people who look at the pipeline: a frame with its boxes, a contact sheet, a timeline.

They lie in Dagster's events, so each has a bound on its bytes, and a recording on how many it gets.
"""

import base64
import functools
import importlib.util
import io
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from resources.footage import Picture

if TYPE_CHECKING:  # the media process needs neither to load, and draws nothing
    import pyarrow as pa
    from PIL import Image, ImageDraw, ImageFont

LONGEST_SIDE_PX = 320
MAX_FRAME_BYTES, MAX_SHEET_BYTES = 15_000, 20_000
EVERY_S, MOST_PER_RECORDING = 5.0, 40
_QUALITIES = (75, 60, 45, 30, 15)
_TEXT_PX = 11
_MARGIN_PX = 4
_CAPTION_PX = _TEXT_PX + _MARGIN_PX
_ENLARGED_BY = 3  # small things are shown this much larger at most
_SHEET_COLOUR, _SHEET_TEXT_COLOUR = (24, 27, 31), (230, 230, 230)
# Told apart on bright and dark pictures, also by most people who see few colours.
_COLOURS = ((255, 176, 0), (100, 200, 255), (255, 110, 160), (140, 230, 90), (190, 140, 255), (255, 255, 120),
            (0, 210, 190), (255, 130, 70))  # fmt: skip
_DARK_COLOURS = ("#b45f06", "#1c6fb5", "#b83280", "#2f7d32", "#6b46c1", "#8a6d00", "#00796b", "#c53030")


class Occasions:
    """Says when the next picture of some work is due: every few seconds, and so often in all that it stays few.

    The first is due some seconds after the start, so that short work draws none.
    """

    def __init__(self) -> None:
        self._last_s, self._last_done = time.monotonic(), 0

    def is_due(self, done: int, total: int) -> bool:
        """Whether a picture of this moment is wanted; asking costs next to nothing.

        Args:
            done: Frames done.
            total: Frames expected; 0 if unknown.
        """
        now = time.monotonic()
        if now - self._last_s < EVERY_S or done - self._last_done < total / MOST_PER_RECORDING:
            return False
        self._last_s, self._last_done = now, done
        return True


class Glance:
    """Carries the picture of a frame, now and then, from the thread that decodes it to the one that knows its boxes."""

    def __init__(self, total: int) -> None:
        self._occasions, self._total = Occasions(), total
        self._held: tuple[int, np.ndarray] | None = None

    def offer(self, number: int, picture: Picture) -> None:
        """Keep a small copy of the picture if one is due.

        Args:
            number: Its place in the order of the work.
            picture: uint8 of shape (height_px, width_px, 3), wherever it lies.
        """
        if self._held is None and self._occasions.is_due(number, self._total):
            self._held = number, shrunk(picture if isinstance(picture, np.ndarray) else picture.cpu().numpy())

    def taken(self, number: int) -> np.ndarray | None:
        """The small copy of this picture, if it was kept; see `shrunk`."""
        if self._held is None or self._held[0] != number:
            return None
        picture, self._held = self._held[1], None
        return picture


def shrunk(picture: np.ndarray) -> np.ndarray:
    """A copy that is `LONGEST_SIDE_PX` long at most.

    Args:
        picture: uint8 array of shape (height_px, width_px, 3).
    """
    import cv2

    size = small_size(picture.shape[1], picture.shape[0])
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def small_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Width and height that fit into a square of `LONGEST_SIDE_PX`, at least 1 each, never enlarged."""
    scale = min(1.0, LONGEST_SIDE_PX / max(width_px, height_px))
    return max(1, round(width_px * scale)), max(1, round(height_px * scale))


def annotated(
    picture: np.ndarray,
    xyxy: np.ndarray,
    names: Sequence[str],
    class_id: Sequence[int],
    polygons: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """A picture with boxes and the names of their classes; a name that would cover another is left out.

    Args:
        picture: uint8 BGR array of shape (height_px, width_px, 3), unchanged.
        xyxy: Corners of the boxes as shares of its width and height, shape (n, 4), the most important first.
        names: Name of each box.
        class_id: Class of each box, which decides its colour.
        polygons: Outlines of the part that was looked at, as shares, arrays of shape (corners, 2).

    Returns:
        uint8 BGR array of the same shape.
    """
    from PIL import ImageDraw

    image = _image(picture)
    draw, size = ImageDraw.Draw(image), np.array(image.size)
    for polygon in polygons:
        draw.polygon([tuple(point) for point in (polygon * (size - 1)).tolist()], outline=(255, 255, 255))
    boxes = (np.clip(xyxy, 0, 1).reshape(-1, 2, 2) * (size - 1)).round().astype(int).reshape(-1, 4)
    # The most important last, so that it lies above the others.
    for box, number in reversed(list(zip(boxes.tolist(), class_id, strict=True))):
        draw.rectangle(box, outline=_COLOURS[number % len(_COLOURS)])
    taken: list[tuple[float, float, float, float]] = []
    for box, name, number in zip(boxes.tolist(), names, class_id, strict=True):
        _label(draw, box, readable(name, f"class {number}"), _COLOURS[number % len(_COLOURS)], image.size, taken)
    return _array(image)


def _label(
    draw: "ImageDraw.ImageDraw",
    box: Sequence[int],
    text: str,
    colour: tuple[int, int, int],
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """Write above a box, or inside where there is no room above; nothing where another label is."""
    width, height = _font().getlength(text) + 2, _TEXT_PX + 2
    left = max(0.0, min(float(box[0]), size[0] - width))
    top = box[1] - height if box[1] >= height else box[1]
    place = (left, top, left + width, top + height)
    if any(place[0] < t[2] and t[0] < place[2] and place[1] < t[3] and t[1] < place[3] for t in taken):
        return
    taken.append(place)
    draw.rectangle(place, fill=colour)
    draw.text((left + 1, top + height / 2), text, fill=(0, 0, 0), font=_font(), anchor="lm")


def contact_sheet(
    cells: Sequence[tuple[np.ndarray, str]], columns: int, cell_width_px: int, cell_height_px: int
) -> np.ndarray:
    """Pictures in rows, each with a line of text below it.

    Args:
        cells: uint8 BGR arrays of shape (height_px, width_px, 3) with their texts; at least one.
        columns: Pictures per row.
        cell_width_px: Width that a picture is fitted into.
        cell_height_px: Height that a picture is fitted into.

    Returns:
        uint8 BGR array of shape (sheet_height_px, sheet_width_px, 3).
    """
    from PIL import Image, ImageDraw

    columns = min(columns, len(cells))
    rows = -(-len(cells) // columns)
    wide, high = cell_width_px + _MARGIN_PX, cell_height_px + _CAPTION_PX + _MARGIN_PX
    sheet = Image.new("RGB", (columns * wide + _MARGIN_PX, rows * high + _MARGIN_PX), _SHEET_COLOUR)
    draw = ImageDraw.Draw(sheet)
    for number, (picture, text) in enumerate(cells):
        left, top = number % columns * wide + _MARGIN_PX, number // columns * high + _MARGIN_PX
        height_px, width_px = picture.shape[:2]
        scale = min(cell_width_px / width_px, cell_height_px / height_px, _ENLARGED_BY)
        fitted = _image(picture).resize((max(1, round(width_px * scale)), max(1, round(height_px * scale))))
        sheet.paste(fitted, (left + (cell_width_px - fitted.width) // 2, top + (cell_height_px - fitted.height) // 2))
        middle = (left + cell_width_px / 2, top + cell_height_px + _CAPTION_PX / 2)
        draw.text(middle, _shortened(text, cell_width_px), fill=_SHEET_TEXT_COLOUR, font=_font(), anchor="mm")
    return _array(sheet)


def _shortened(text: str, width_px: int) -> str:
    shown = text
    while shown and _font().getlength(shown) > width_px:
        text = text[:-1]
        shown = text + "…" if text else ""
    return shown


def presence(boxes: "pa.Table", duration_s: float, bins: int) -> dict[str, np.ndarray]:
    """How many objects of each class are there at once, over time.

    Args:
        boxes: Rows with class_name, frame_index and time_s, a row per object and frame.
        duration_s: The time that the bins divide.
        bins: How many equal spans of time.

    Returns:
        By class, the most at once in each span: int arrays of shape (bins,); the class with the most first.
    """
    import pyarrow.compute as pc

    by_class: dict[str, np.ndarray] = {}
    moments_s = np.unique(boxes["time_s"].to_numpy())
    # A frame stands for the time until the next that was looked at, which may be longer than a span.
    shown_s = float(np.median(np.diff(moments_s))) if len(moments_s) > 1 else 0.0
    for name in boxes["class_name"].unique().to_pylist():
        rows = boxes.filter(pc.equal(boxes["class_name"], name))
        _, first, count = np.unique(rows["frame_index"].to_numpy(), return_index=True, return_counts=True)
        begin_s = rows["time_s"].to_numpy()[first]
        begin, end = (at_s / max(duration_s, 1e-9) * bins for at_s in (begin_s, begin_s + shown_s))
        span, last = begin.astype(int), np.maximum(begin.astype(int), np.ceil(end - 1e-6).astype(int) - 1)
        most = np.zeros(bins, np.int64)
        while len(span):
            np.maximum.at(most, span.clip(0, bins - 1), count)
            goes_on = span < last
            span, last, count = span[goes_on] + 1, last[goes_on], count[goes_on]
        by_class[name] = most
    return dict(sorted(by_class.items(), key=lambda pair: -int(pair[1].sum())))


_CHART_WIDTH, _CHART_LEFT, _LANE_HEIGHT, _LANE_GAP, _AXIS_HEIGHT = 760, 120, 34, 8, 22
TIMELINE_BINS = 160
_MOST_LANES, _STROKE_WIDTH = 12, 3


def timeline(
    lanes: Mapping[str, np.ndarray], marks: Mapping[str, tuple[np.ndarray, np.ndarray]], duration_s: float
) -> str:
    """What was there when: a lane for each class, and one with strokes for each line and zone.

    Args:
        lanes: By name, numbers over equal spans of time, shape (bins,); beyond twelve lanes the rest is left out.
        marks: By name, times in seconds, shape (n,), and for each whether its stroke points up, bool, shape (n,).
        duration_s: The time that the whole width stands for.

    Returns:
        An SVG document, which browsers write with their own fonts, whatever the script of the names.
    """
    shown, marked = list(lanes.items())[:_MOST_LANES], list(marks.items())[:_MOST_LANES]
    step = _LANE_HEIGHT + _LANE_GAP
    height = step * max(1, len(shown) + len(marked)) + _LANE_GAP + _AXIS_HEIGHT
    plot_width, bottom = _CHART_WIDTH - _CHART_LEFT - 16, height - _AXIS_HEIGHT
    parts = [f'<rect width="{_CHART_WIDTH}" height="{height}" fill="#fff"/>']
    if not shown and not marked:
        parts.append(f'<text x="{_CHART_LEFT}" y="{bottom - step / 2:.0f}">no object was seen</text>')
    seconds = _tick_s(duration_s)
    for number in range(int(duration_s / seconds) + 1):
        x = _CHART_LEFT + number * seconds / max(duration_s, 1e-9) * plot_width
        parts.append(f'<path d="M{x:.1f} 0V{bottom}" stroke="#e3e6ea"/>')
        told = clock(number * seconds, seconds < 1)
        parts.append(f'<text x="{x:.1f}" y="{height - 7}" text-anchor="middle" fill="#666">{told}</text>')
    for number, (name, counts) in enumerate(shown):
        base, most = _LANE_GAP + number * step + _LANE_HEIGHT, int(counts.max(initial=0))
        colour = _DARK_COLOURS[number % len(_DARK_COLOURS)]
        parts.append(_lane_name(name, base, f"up to {most} at once"))
        parts.append(f'<path d="{_stepped(counts, base, plot_width)}" fill="{colour}"/>')
    for number, (name, (times_s, is_up)) in enumerate(marked, len(shown)):
        base = _LANE_GAP + number * step + _LANE_HEIGHT
        middle = base - _LANE_HEIGHT // 2
        parts.append(_lane_name(name, base, f"{int(is_up.sum())} in ↑ {int((~is_up).sum())} out ↓"))
        parts.append(f'<path d="M{_CHART_LEFT} {middle}h{plot_width}" stroke="#999"/>')
        at = _CHART_LEFT + times_s / max(duration_s, 1e-9) * plot_width
        for up, reach, colour in ((True, -_LANE_HEIGHT // 2, "#2f7d32"), (False, _LANE_HEIGHT // 2, "#c53030")):
            # Strokes of one place are one: however many events, the picture has a bound.
            places = np.unique((at[is_up == up] / _STROKE_WIDTH).round() * _STROKE_WIDTH).astype(int).tolist()
            strokes = "".join(f"M{place} {middle}v{reach}" for place in places)
            parts.append(f'<path d="{strokes}" stroke="{colour}" stroke-width="2"/>' if strokes else "")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_CHART_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="11">{"".join(parts)}</svg>'
    )


def _lane_name(name: str, base: int, told: str) -> str:
    cut = name if len(name) <= 18 else name[:17] + "…"
    return (
        f'<text x="8" y="{base - _LANE_HEIGHT / 2 - 2:.0f}" font-weight="bold">{escape(cut)}</text>'
        f'<text x="8" y="{base - _LANE_HEIGHT / 2 + 12:.0f}" fill="#666">{told}</text>'
    )


def _stepped(counts: np.ndarray, base: int, plot_width: int) -> str:
    """Path of a stepped area that stands on `base`; spans of equal numbers are one step."""
    most, width = max(1, int(counts.max(initial=0))), plot_width / max(1, len(counts))
    changes = np.flatnonzero(np.diff(counts, prepend=0))
    steps = "".join(
        f"H{_CHART_LEFT + at * width:.0f}V{base - counts[at] / most * _LANE_HEIGHT:.0f}" for at in changes.tolist()
    )
    return f"M{_CHART_LEFT} {base}{steps}H{_CHART_LEFT + plot_width}V{base}Z"


def _tick_s(duration_s: float) -> float:
    """A round number of seconds that divides the time into at most ten."""
    for seconds in (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400):
        if duration_s / seconds <= 10:
            return seconds
    return duration_s / 10


def clock(time_s: float, tenths: bool = False) -> str:
    """A media time such as 0:07 or 1:02:03, or 0:07.3 with tenths of a second."""
    minutes, seconds = divmod(round(time_s, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    told = f"{seconds:04.1f}" if tenths else f"{int(seconds):02d}"
    return f"{hours}:{minutes:02d}:{told}" if hours else f"{minutes}:{told}"


def jpeg(picture: np.ndarray, max_bytes: int) -> bytes:
    """A picture as JPEG that keeps within a bound: first less exact, then smaller.

    Args:
        picture: uint8 BGR array of shape (height_px, width_px, 3).
        max_bytes: The bound.
    """
    image = _image(picture)
    while True:
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=quality, optimize=True)
            if buffer.tell() <= max_bytes or image.size == (1, 1):
                return buffer.getvalue()
        image = image.resize((max(1, image.width * 3 // 4), max(1, image.height * 3 // 4)))


def as_markdown(picture: bytes | str, told: str) -> str:
    """A picture as Markdown that holds it, for Dagster's pages.

    Args:
        picture: A JPEG, or an SVG document.
        told: What it shows, for those who cannot see it.
    """
    kind, content = ("svg+xml", picture.encode()) if isinstance(picture, str) else ("jpeg", picture)
    return f"![{told}](data:image/{kind};base64,{base64.b64encode(content).decode()})"


def readable(text: str, otherwise: str) -> str:
    """The text, or something else where the font lacks some of its letters."""
    missing = bytes(_font().getmask("\uffff"))  # no character: every font draws its mark for what it lacks
    return otherwise if any(bytes(_font().getmask(letter)) == missing for letter in set(text)) else text


@functools.cache
def _font() -> "ImageFont.FreeTypeFont | ImageFont.ImageFont":
    """DejaVu Sans (Latin, Greek, Cyrillic, Arabic), which matplotlib brings; else what Pillow brings."""
    from PIL import ImageFont

    found = importlib.util.find_spec("matplotlib")
    for folder in found.submodule_search_locations or () if found else ():
        file = Path(folder) / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.exists():
            return ImageFont.truetype(file, _TEXT_PX)
    return ImageFont.load_default(_TEXT_PX)


def _image(picture: np.ndarray) -> "Image.Image":
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(picture[..., ::-1]))


def _array(image: "Image.Image") -> np.ndarray:
    return np.asarray(image)[..., ::-1]
