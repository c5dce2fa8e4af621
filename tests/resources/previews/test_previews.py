"""Previews for the UI: boxes and labels are drawn at their places, and sizes are limited."""

import io
import itertools
import queue
import threading
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from resources.previews import preview_throttle
from resources.previews.annotated_frames import DARK_COLOURS, annotate_image, drawable_name, shrink_to_preview
from resources.previews.boxes_sheet import BoxesSheet
from resources.previews.contact_sheet import contact_sheet
from resources.previews.image_encoding import MAX_SHEET_BYTES, embed_in_markdown, encode_jpeg
from resources.previews.preview_throttle import MAX_PREVIEWS_PER_RECORDING, PreviewFrame, PreviewThrottle
from resources.previews.timeline_chart import TIMELINE_BINS, format_clock, peak_counts_by_class, timeline_chart

GREY = np.full((180, 320, 3), 90, np.uint8)
NO_BOXES = np.zeros((0, 4), np.float32)
SVG = "{http://www.w3.org/2000/svg}"


def decode_jpeg(content: bytes) -> np.ndarray:
    """Decode a JPEG to a BGR array."""
    image = Image.open(io.BytesIO(content))
    assert image.format == "JPEG"
    return np.asarray(image)[..., ::-1]


def differing_pixels(image: np.ndarray, original: np.ndarray = GREY) -> np.ndarray:
    """Which pixels differ, bool of shape (height_px, width_px)."""
    return np.asarray((image != original).any(axis=2))


def test_a_box_is_drawn_at_its_place_with_its_name_above_it() -> None:
    annotated = annotate_image(GREY, np.array([[0.5, 0.5, 0.75, 1.0]]), ["car"], [2])
    is_drawn = differing_pixels(annotated)
    assert is_drawn[95:175, 160].all() and is_drawn[95:175, 239].all()  # left and right edge
    assert is_drawn[90, 160:240].all() and is_drawn[179, 160:240].all()  # top and bottom edge
    assert not is_drawn[95:175, 165:235].any()  # the inside of the box stays visible
    assert is_drawn[80:88, 162:172].mean() > 0.9  # the name
    assert not is_drawn[:70].any() and not is_drawn[:, :155].any()
    assert not differing_pixels(GREY, np.full_like(GREY, 90)).any()  # the input image is not modified


def test_classes_have_different_colours_and_one_class_always_the_same() -> None:
    boxes = np.array([[0.1, 0.5, 0.2, 0.9], [0.4, 0.5, 0.5, 0.9], [0.7, 0.5, 0.8, 0.9]])
    annotated = annotate_image(GREY, boxes, ["a", "b", "a"], [0, 1, 0])
    first, second, third = (annotated[120, round(x * 319)].tolist() for x in (0.1, 0.4, 0.7))
    assert first == third != second


def test_a_name_that_would_overlap_another_is_left_out() -> None:
    box = np.array([[0.5, 0.5, 0.7, 0.9]])
    two_boxes = np.concatenate([box, box + 0.01])
    assert (differing_pixels(annotate_image(GREY, two_boxes, ["first", "second"], [0, 1]))[60:88].sum()) == (
        differing_pixels(annotate_image(GREY, box, ["first"], [0]))[60:88].sum()
    )


def test_names_stay_inside_the_image() -> None:
    boxes_at_edges = np.array([[0.0, 0.0, 0.1, 0.2], [0.95, 0.0, 1.0, 0.2], [-0.2, 0.9, 1.3, 1.4]])
    annotated = annotate_image(GREY, boxes_at_edges, ["traffic light", "traffic light", "traffic light"], [0, 1, 2])
    assert annotated.shape == GREY.shape
    assert differing_pixels(annotated)[:14, 240:].any()


@pytest.mark.parametrize("name", ["Fußgänger", "автобус", "πεζός", "人", "", "<b>&amp;"])
def test_any_name_can_be_drawn(name: str) -> None:
    assert differing_pixels(annotate_image(GREY, np.array([[0.2, 0.4, 0.6, 0.9]]), [name], [7])).any()


def test_a_name_with_letters_that_the_font_lacks_is_replaced() -> None:
    assert drawable_name("автобус é", "class 5") == "автобус é"
    assert drawable_name("人", "class 5") == "class 5"


def test_an_image_without_boxes_is_unchanged_except_for_the_outline_of_the_region() -> None:
    assert not differing_pixels(annotate_image(GREY, NO_BOXES, [], [])).any()
    region = np.array([[0.0, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]])
    is_drawn = differing_pixels(annotate_image(GREY, NO_BOXES, [], [], [region]))
    assert is_drawn[89:91].any(axis=0).all() and not is_drawn[:85].any() and not is_drawn[100:170, 10:310].any()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((720, 1280, 3), (180, 320, 3)),
        ((1280, 720, 3), (320, 180, 3)),
        ((16, 4000, 3), (1, 320, 3)),
        ((4000, 2, 3), (320, 1, 3)),
        ((48, 64, 3), (48, 64, 3)),
        ((1, 1, 3), (1, 1, 3)),
    ],
)
def test_a_preview_of_any_shape_can_be_annotated(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    image = np.zeros(shape, np.uint8)
    preview = shrink_to_preview(image)
    assert preview.shape == expected
    assert not np.shares_memory(preview, image)
    assert annotate_image(preview, np.array([[0.1, 0.1, 0.9, 0.9]]), ["person"], [0]).shape == expected


def test_a_contact_sheet_has_a_cell_for_each_image_with_its_caption_below() -> None:
    colours = np.random.default_rng(0).integers(60, 255, (5, 3))
    cells = [(np.full((50, 100, 3), colour, np.uint8), str(n)) for n, colour in enumerate(colours)]
    sheet = contact_sheet(cells, 3, 80, 60)
    step_x, step_y = 80 + 4, 60 + 15 + 4
    assert sheet.shape == (2 * step_y + 4, 3 * step_x + 4, 3)
    for index, colour in enumerate(colours):
        left, top = index % 3 * step_x + 4, index // 3 * step_y + 4
        cell = sheet[top : top + 60, left : left + 80]
        assert (cell == colour).all(axis=2).sum() == 80 * 40  # the full width; the height follows the aspect ratio
        assert (sheet[top + 60 : top + 75, left : left + 80] > 150).any()  # the caption
    assert (sheet[step_y + 4 :, 2 * step_x + 4 :] < 60).all()  # the sixth cell is empty


def test_a_boxes_sheet_shows_the_frames_with_the_most_boxes_of_each_part() -> None:
    sheet, drawn = BoxesSheet(0, 48), list[int]()
    for position in range(48):
        sheet.store_if_due(position, GREY)
    for position in range(48):
        box_count = 5 if position in (4, 40) else 1

        def annotate(image: np.ndarray, position: int = position) -> np.ndarray:
            drawn.append(position)
            return np.full_like(image, 250 if position in (4, 40) else 0)

        sheet.add_boxes(position, position / 10, box_count, annotate)
    assert len(drawn) == 24 and (drawn[0], drawn[-1]) == (0, 47)
    rendered = sheet.render()
    assert rendered is not None
    image, count = rendered
    assert (count, image.shape[1]) == (6, 3 * 244 + 4)
    is_bright = [image[60, 120].min() > 200, image[60, 364].min() > 200, image[220, 612].min() > 200]
    assert is_bright == [True, False, True]


def test_a_boxes_sheet_without_boxes_or_frames_is_none() -> None:
    assert BoxesSheet(0, 0).render() is None
    sheet = BoxesSheet(5, 6)
    sheet.store_if_due(5, GREY)
    sheet.add_boxes(5, 0.5, 0, lambda image: image)
    assert sheet.render() is None


def test_a_contact_sheet_of_one_small_image_is_one_cell() -> None:
    sheet = contact_sheet([(np.full((4, 4, 3), 200, np.uint8), "a very long text that has no room")], 8, 84, 84)
    assert sheet.shape == (84 + 15 + 8, 84 + 8, 3)
    assert (sheet[:88] > 150).all(axis=2).sum() == 12 * 12  # enlarged threefold at most
    assert not (sheet[88:, :4] > 100).any() and not (sheet[88:, -4:] > 100).any()


def test_a_jpeg_keeps_its_size_limit_whatever_the_image() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (331, 660, 3), np.uint8)
    content = encode_jpeg(noise, MAX_SHEET_BYTES)
    assert len(content) <= MAX_SHEET_BYTES
    shape = decode_jpeg(content).shape
    assert shape[1] / shape[0] == pytest.approx(2, abs=0.05)
    flat = decode_jpeg(encode_jpeg(GREY, 15_000))
    assert flat.shape == GREY.shape and np.abs(flat.astype(int) - 90).max() <= 2
    assert decode_jpeg(encode_jpeg(np.zeros((1, 1, 3), np.uint8), 10)).shape == (1, 1, 3)  # a single pixel is kept


def test_markdown_embeds_the_image_as_a_data_url() -> None:
    assert embed_in_markdown(b"\xff\xd8", "a car") == "![a car](data:image/jpeg;base64,/9g=)"
    assert embed_in_markdown("<svg/>", "x").startswith("![x](data:image/svg+xml;base64,PHN2Zy8+")


def test_previews_are_spread_over_a_recording_and_limited_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(PreviewThrottle().is_due(done, 1000) for done in range(1000))  # finished before the first is due
    monkeypatch.setattr(preview_throttle, "PREVIEW_INTERVAL_S", 0.0)
    throttle = PreviewThrottle()
    due = [done for done in range(100_000) if throttle.is_due(done, 100_000)]
    assert len(due) <= MAX_PREVIEWS_PER_RECORDING
    assert {after - before for before, after in itertools.pairwise(due)} == {2500}


def test_a_preview_is_taken_together_with_the_frame_that_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview_throttle, "PREVIEW_INTERVAL_S", 0.0)
    preview_frame, positions = PreviewFrame(4000), queue.Queue[int](maxsize=8)

    def decode() -> None:
        for position in range(4000):
            preview_frame.store_if_due(position, np.full((9, 16, 3), position % 251, np.uint8))
            positions.put(position)

    thread = threading.Thread(target=decode)
    thread.start()
    with_preview = []
    for _ in range(4000):
        position = positions.get(timeout=60)
        preview = preview_frame.take(position)
        if preview is not None:
            assert (preview == position % 251).all()
            with_preview.append(position)
    thread.join()
    assert MAX_PREVIEWS_PER_RECORDING // 2 <= len(with_preview) <= MAX_PREVIEWS_PER_RECORDING


def boxes_table(*rows: tuple[str, int, float]) -> pa.Table:
    names, frame_indices, times_s = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "class_name": pa.array(names, pa.string()),
            "frame_index": pa.array(frame_indices, pa.int32()),
            "time_s": pa.array(times_s, pa.float64()),
        }
    )


def test_peak_counts_are_the_most_objects_at_the_same_time_in_each_bin() -> None:
    rows = [("car", 0, 0.0), ("car", 1, 0.5), ("car", 1, 0.5), ("person", 7, 3.5), ("car", 9, 4.0)]
    counts = peak_counts_by_class(boxes_table(*rows), 4.0, 4)
    assert {name: row.tolist() for name, row in counts.items()} == {"car": [2, 0, 0, 1], "person": [0, 0, 0, 1]}
    assert list(counts) == ["car", "person"]
    assert peak_counts_by_class(boxes_table(), 4.0, 4) == {}
    assert peak_counts_by_class(boxes_table(("car", 0, 0.0)), 0.0, 3)["car"].sum() == 1  # one frame of duration 0


def test_the_timeline_has_a_lane_per_class_and_strokes_at_the_events() -> None:
    lanes = {"Fußgänger <人>": np.array([0, 2, 2, 0]), "car": np.array([1, 0, 0, 0])}
    marks = {"door": (np.array([0.0, 30.0, 60.0, 60.0]), np.array([True, False, True, True]))}
    root = ElementTree.fromstring(timeline_chart(lanes, marks, 60.0))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "Fußgänger <人>" in texts and "up to 2 at once" in texts and "3 in ↑ 1 out ↓" in texts
    assert texts[:7] == ["0:00", "0:10", "0:20", "0:30", "0:40", "0:50", "1:00"]
    paths = [path.attrib for path in root.iter(f"{SVG}path")]
    pedestrian_area = next(path["d"] for path in paths if path.get("fill") == DARK_COLOURS[0])
    assert pedestrian_area == "M120 42H276V8H588V42H744V42Z"  # full height from a quarter to three quarters
    strokes = [path["d"] for path in paths if path.get("stroke-width")]
    assert strokes == ["M120 109v-17M744 109v-17", "M432 109v17"]


def test_an_empty_timeline_has_a_text_and_the_number_of_lanes_is_limited() -> None:
    assert "no objects detected" in timeline_chart({}, {}, 12.0)
    assert timeline_chart({}, {}, 0.0).startswith("<svg")
    rng = np.random.default_rng(0)
    lanes = {f"class {n}": rng.integers(0, 9, TIMELINE_BINS) for n in range(80)}
    marks = {f"line {n}": (rng.uniform(0, 9e4, 50_000), rng.random(50_000) > 0.5) for n in range(30)}
    svg = timeline_chart(lanes, marks, 9e4)
    assert len(svg) < 80_000
    assert svg.count("at once") == 12
    ElementTree.fromstring(svg)


def test_media_times_are_formatted_as_a_clock() -> None:
    assert [format_clock(time_s) for time_s in (0, 7, 59.98, 61, 3723)] == ["0:00", "0:07", "1:00", "1:01", "1:02:03"]
    assert format_clock(7.31, tenths=True) == "0:07.3"
