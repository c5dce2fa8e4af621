"""CVAT files as CVAT's server reads them: into the models of its SDK, which check each field, and back."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from cli.main import commands
from resources.storage.delta_store import Store
from tests.builders.numbered_videos import MakeVideo
from tests.builders.walk_recording import FRAME_COUNT, store_walk, true_boxes

pytestmark = pytest.mark.long  # the SDK takes seconds to import

_FLAGS = {"0": False, "1": True}


def read_track(element: ElementTree.Element, labels: dict[str, int]) -> Any:
    """The request by which CVAT's server creates a track, as its importer of `CVAT for video 1.1` builds it."""
    from cvat_sdk import models

    shapes = []
    for box in element.iter("box"):
        corners = [float(box.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr")]
        shapes.append(
            models.TrackedShapeRequest(
                type=models.ShapeType("rectangle"),
                frame=int(box.attrib["frame"]),
                points=corners,
                occluded=_FLAGS[box.attrib["occluded"]],
                outside=_FLAGS[box.attrib["outside"]],
                z_order=int(box.attrib.get("z_order", 0)),
                attributes=[],
            )
        )
    label_id = labels[element.attrib["label"]]
    return models.LabeledTrackRequest(frame=shapes[0].frame, label_id=label_id, shapes=shapes, source="file")


def test_the_models_of_cvat_accept_every_track(store: Store, make_video: MakeVideo, tmp_path: Path) -> None:
    from cvat_sdk import models

    out = tmp_path / "out"
    arguments = [*store_walk(store, make_video), "--out", str(out)]
    assert CliRunner().invoke(commands, ["export", "cvat", *arguments]).exit_code == 0
    root = ElementTree.parse(out / "walk.xml").getroot()
    names = [label.text or "" for label in root.iterfind("meta/task/labels/label/name")]
    labels = [models.PatchedLabelRequest(name=name, attributes=[]) for name in names]
    task = models.TaskWriteRequest(name=root.findtext("meta/task/name") or "", labels=labels)
    assert [label.name for label in task.labels] == ["car", "person"]
    numbers = {name: number for number, name in enumerate(names, 1)}
    tracks = [read_track(element, numbers) for element in root.iter("track")]
    request = models.LabeledDataRequest(version=0, tags=[], shapes=[], tracks=tracks)
    found: dict[int, dict[int, Any]] = {}
    for number, track in enumerate(request.tracks, 1):
        assert track.shapes[0].frame == track.frame
        assert all(0 <= shape.frame < FRAME_COUNT for shape in track.shapes)
        found[number] = {
            shape.frame: (names[track.label_id - 1], tuple(shape.points)) for shape in track.shapes if not shape.outside
        }
    assert found == true_boxes()
