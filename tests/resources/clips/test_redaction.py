from resources.clips.redaction import redacted_areas
from resources.exports.annotations import Box


def test_an_object_is_covered_before_after_and_in_gaps_of_its_track() -> None:
    boxes = [Box(frame, 1, "person", 0.9, (100, 100, 120, 140)) for frame in (20, 21, 22, 30, 31)]
    boxes.append(Box(60, None, "person", 0.1, (300, 100, 320, 140)))  # in no track
    boxes.append(Box(20, 2, "car", 0.9, (0, 0, 50, 50)))
    areas = redacted_areas(boxes, ["person"], 100, 10.0)
    assert sorted(areas) == [*range(10, 42), *range(50, 71)]
    assert areas[25] == [(97.0, 94.0, 123.0, 146.0)]
    assert redacted_areas(boxes, ["bus"], 100, 10.0) == {}


def test_all_between_the_boxes_around_a_gap_is_covered() -> None:
    boxes = [Box(frame, 1, "person", 0.9, (10 * frame, 0, 10 * frame + 20, 40)) for frame in (20, 30)]
    assert redacted_areas(boxes, ["person"], 100, 10.0)[25] == [(197.0, -6.0, 323.0, 46.0)]


def test_the_ends_of_a_track_reach_to_where_its_motion_leads() -> None:
    boxes = [Box(frame, 1, "person", 0.9, (10 * frame, 0, 10 * frame + 20, 40)) for frame in range(20, 30)]
    areas = redacted_areas(boxes, ["person"], 100, 10.0)
    for frame in range(10, 40):
        left, _, right, _ = areas[frame][0]
        assert left <= 10 * frame
        assert right >= 10 * frame + 20


def test_a_long_gap_is_open_in_the_middle() -> None:
    boxes = [Box(frame, 1, "person", 0.9, (0, 0, 20, 40)) for frame in (10, 60)]
    assert sorted(redacted_areas(boxes, ["person"], 100, 10.0)) == [*range(21), *range(50, 71)]
