"""Pictures for people: what is drawn is where it should be, and within its bounds."""

import io
import itertools
import queue
import threading
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from resources import pictures
from resources.pictures import (
    MAX_SHEET_BYTES,
    Glance,
    Occasions,
    annotated,
    as_markdown,
    clock,
    contact_sheet,
    jpeg,
    presence,
    readable,
    shrunk,
    timeline,
)

GREY = np.full((180, 320, 3), 90, np.uint8)
NO_BOXES = np.zeros((0, 4), np.float32)
SVG = "{http://www.w3.org/2000/svg}"


def decoded(content: bytes) -> np.ndarray:
    """A JPEG as a BGR array."""
    image = Image.open(io.BytesIO(content))
    assert image.format == "JPEG"
    return np.asarray(image)[..., ::-1]


def changed(picture: np.ndarray, before: np.ndarray = GREY) -> np.ndarray:
    """Which pixels differ, bool of shape (height_px, width_px)."""
    return np.asarray((picture != before).any(axis=2))


def test_a_box_is_drawn_where_it_is_and_its_name_above_it() -> None:
    drawn = annotated(GREY, np.array([[0.5, 0.5, 0.75, 1.0]]), ["car"], [2])
    is_new = changed(drawn)
    assert is_new[95:175, 160].all() and is_new[95:175, 239].all()  # left and right edge
    assert is_new[90, 160:240].all() and is_new[179, 160:240].all()  # top and bottom edge
    assert not is_new[95:175, 165:235].any()  # what is inside can be seen
    assert is_new[80:88, 162:172].mean() > 0.9  # the name
    assert not is_new[:70].any() and not is_new[:, :155].any()
    assert not changed(GREY, np.full_like(GREY, 90)).any()  # the picture itself is left alone


def test_colours_tell_classes_apart_and_repeat_for_the_same() -> None:
    boxes = np.array([[0.1, 0.5, 0.2, 0.9], [0.4, 0.5, 0.5, 0.9], [0.7, 0.5, 0.8, 0.9]])
    drawn = annotated(GREY, boxes, ["a", "b", "a"], [0, 1, 0])
    first, second, third = (drawn[120, round(x * 319)].tolist() for x in (0.1, 0.4, 0.7))
    assert first == third != second


def test_a_name_that_would_cover_another_is_left_out() -> None:
    one = np.array([[0.5, 0.5, 0.7, 0.9]])
    both = np.concatenate([one, one + 0.01])
    assert (changed(annotated(GREY, both, ["first", "second"], [0, 1]))[60:88].sum()) == (
        changed(annotated(GREY, one, ["first"], [0]))[60:88].sum()
    )


def test_names_keep_inside_the_picture() -> None:
    edges = np.array([[0.0, 0.0, 0.1, 0.2], [0.95, 0.0, 1.0, 0.2], [-0.2, 0.9, 1.3, 1.4]])
    drawn = annotated(GREY, edges, ["traffic light", "traffic light", "traffic light"], [0, 1, 2])
    assert drawn.shape == GREY.shape
    assert changed(drawn)[:14, 240:].any()


@pytest.mark.parametrize("name", ["Fußgänger", "автобус", "πεζός", "人", "", "<b>&amp;"])
def test_any_name_can_be_drawn(name: str) -> None:
    assert changed(annotated(GREY, np.array([[0.2, 0.4, 0.6, 0.9]]), [name], [7])).any()


def test_letters_that_the_font_lacks_are_told_otherwise() -> None:
    assert readable("автобус é", "class 5") == "автобус é"
    assert readable("人", "class 5") == "class 5"


def test_without_boxes_the_picture_is_as_it_was_and_the_region_is_outlined() -> None:
    assert not changed(annotated(GREY, NO_BOXES, [], [])).any()
    region = np.array([[0.0, 0.5], [1.0, 0.5], [1.0, 1.0], [0.0, 1.0]])
    is_new = changed(annotated(GREY, NO_BOXES, [], [], [region]))
    assert is_new[89:91].any(axis=0).all() and not is_new[:85].any() and not is_new[100:170, 10:310].any()


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
def test_a_small_copy_of_any_shape_can_be_drawn_on(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    picture = np.zeros(shape, np.uint8)
    small = shrunk(picture)
    assert small.shape == expected
    assert not np.shares_memory(small, picture)
    assert annotated(small, np.array([[0.1, 0.1, 0.9, 0.9]]), ["person"], [0]).shape == expected


def test_a_sheet_has_a_cell_for_each_picture_with_its_text_below() -> None:
    colours = np.random.default_rng(0).integers(60, 255, (5, 3))
    cells = [(np.full((50, 100, 3), colour, np.uint8), str(n)) for n, colour in enumerate(colours)]
    sheet = contact_sheet(cells, 3, 80, 60)
    wide, high = 80 + 4, 60 + 15 + 4
    assert sheet.shape == (2 * high + 4, 3 * wide + 4, 3)
    for number, colour in enumerate(colours):
        left, top = number % 3 * wide + 4, number // 3 * high + 4
        cell = sheet[top : top + 60, left : left + 80]
        assert (cell == colour).all(axis=2).sum() == 80 * 40  # the whole width, and as high as its shape allows
        assert (sheet[top + 60 : top + 75, left : left + 80] > 150).any()  # the text
    assert (sheet[high + 4 :, 2 * wide + 4 :] < 60).all()  # the sixth cell is empty


def test_a_sheet_of_one_small_picture_is_one_cell() -> None:
    sheet = contact_sheet([(np.full((4, 4, 3), 200, np.uint8), "a very long text that has no room")], 8, 84, 84)
    assert sheet.shape == (84 + 15 + 8, 84 + 8, 3)
    assert (sheet[:88] > 150).all(axis=2).sum() == 12 * 12  # enlarged, but not without end
    assert not (sheet[88:, :4] > 100).any() and not (sheet[88:, -4:] > 100).any()


def test_a_jpeg_keeps_its_bound_whatever_the_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (331, 660, 3), np.uint8)
    content = jpeg(noise, MAX_SHEET_BYTES)
    assert len(content) <= MAX_SHEET_BYTES
    shape = decoded(content).shape
    assert shape[1] / shape[0] == pytest.approx(2, abs=0.05)
    flat = decoded(jpeg(GREY, 15_000))
    assert flat.shape == GREY.shape and np.abs(flat.astype(int) - 90).max() <= 2
    assert decoded(jpeg(np.zeros((1, 1, 3), np.uint8), 10)).shape == (1, 1, 3)  # smaller it cannot be


def test_markdown_holds_the_picture() -> None:
    assert as_markdown(b"\xff\xd8", "a car") == "![a car](data:image/jpeg;base64,/9g=)"
    assert as_markdown("<svg/>", "x").startswith("![x](data:image/svg+xml;base64,PHN2Zy8+")


def test_pictures_are_due_now_and_then_and_few_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(Occasions().is_due(done, 1000) for done in range(1000))  # over before the first is due
    monkeypatch.setattr(pictures, "EVERY_S", 0.0)
    occasions = Occasions()
    due = [done for done in range(100_000) if occasions.is_due(done, 100_000)]
    assert len(due) <= pictures.MOST_PER_RECORDING
    assert {after - before for before, after in itertools.pairwise(due)} == {2500}


def test_the_picture_of_a_frame_comes_with_that_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "EVERY_S", 0.0)
    glance, ahead = Glance(4000), queue.Queue[int](maxsize=8)

    def decode() -> None:
        for number in range(4000):
            glance.offer(number, np.full((9, 16, 3), number % 251, np.uint8))
            ahead.put(number)

    thread = threading.Thread(target=decode)
    thread.start()
    with_picture = []
    for _ in range(4000):
        number = ahead.get(timeout=60)
        picture = glance.taken(number)
        if picture is not None:
            assert (picture == number % 251).all()
            with_picture.append(number)
    thread.join()
    assert pictures.MOST_PER_RECORDING // 2 <= len(with_picture) <= pictures.MOST_PER_RECORDING


def boxes(*rows: tuple[str, int, float]) -> pa.Table:
    names, frames, times = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "class_name": pa.array(names, pa.string()),
            "frame_index": pa.array(frames, pa.int32()),
            "time_s": pa.array(times, pa.float64()),
        }
    )


def test_presence_is_the_most_at_once_in_each_span() -> None:
    rows = [("car", 0, 0.0), ("car", 1, 0.5), ("car", 1, 0.5), ("person", 7, 3.5), ("car", 9, 4.0)]
    found = presence(boxes(*rows), 4.0, 4)
    assert {name: counts.tolist() for name, counts in found.items()} == {"car": [2, 0, 0, 1], "person": [0, 0, 0, 1]}
    assert list(found) == ["car", "person"]
    assert presence(boxes(), 4.0, 4) == {}
    assert presence(boxes(("car", 0, 0.0)), 0.0, 3)["car"].sum() == 1  # a single frame may last no time


def test_the_timeline_has_a_lane_per_class_and_strokes_at_the_events() -> None:
    lanes = {"Fußgänger <人>": np.array([0, 2, 2, 0]), "car": np.array([1, 0, 0, 0])}
    marks = {"door": (np.array([0.0, 30.0, 60.0, 60.0]), np.array([True, False, True, True]))}
    root = ElementTree.fromstring(timeline(lanes, marks, 60.0))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "Fußgänger <人>" in texts and "up to 2 at once" in texts and "3 in ↑ 1 out ↓" in texts
    assert texts[:7] == ["0:00", "0:10", "0:20", "0:30", "0:40", "0:50", "1:00"]
    paths = [path.attrib for path in root.iter(f"{SVG}path")]
    walkers = next(path["d"] for path in paths if path.get("fill") == pictures._DARK_COLOURS[0])
    assert walkers == "M120 42H276V8H588V42H744V42Z"  # from a quarter to three quarters of the time, full height
    strokes = [path["d"] for path in paths if path.get("stroke-width")]
    assert strokes == ["M120 109v-17M744 109v-17", "M432 109v17"]


def test_a_timeline_of_nothing_says_so_and_many_lanes_have_a_bound() -> None:
    assert "no object was seen" in timeline({}, {}, 12.0)
    assert timeline({}, {}, 0.0).startswith("<svg")
    rng = np.random.default_rng(0)
    lanes = {f"class {n}": rng.integers(0, 9, pictures.TIMELINE_BINS) for n in range(80)}
    marks = {f"line {n}": (rng.uniform(0, 9e4, 50_000), rng.random(50_000) > 0.5) for n in range(30)}
    drawn = timeline(lanes, marks, 9e4)
    assert len(drawn) < 80_000
    assert drawn.count("at once") == 12
    ElementTree.fromstring(drawn)


def test_media_times_are_told_as_people_tell_them() -> None:
    assert [clock(time_s) for time_s in (0, 7, 59.98, 61, 3723)] == ["0:00", "0:07", "1:00", "1:01", "1:02:03"]
    assert clock(7.31, tenths=True) == "0:07.3"
