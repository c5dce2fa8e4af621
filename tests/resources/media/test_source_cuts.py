"""Parts of source frames: the right frame, place, size and colour, found by seeks or by counting."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from resources.config.media_config import VideoSettings
from resources.errors import RecordingError
from resources.media import source_cuts, source_finder
from resources.media.frame_reader import read_images
from resources.media.normalize import normalize
from resources.media.normalized_file import NormalizedVideo
from resources.media.source_cuts import CutSource, FrameCuts, SourceCut, cut_source
from tests.builders.numbered_videos import MakeVideo, read_number

SIZE_PX = (320, 240)
B_FRAMES = {"preset": "veryfast", "bf": "3", "g": "30"}
VARIABLE = [Fraction(number, 25) + Fraction(number % 3, 100) + 5 for number in range(120)]
INDICES = (0, 1, 31, 75, 119)


def cut(
    path: Path, video: NormalizedVideo, indices: Sequence[int], edges_px: Sequence[Sequence[int]] | None = None
) -> list[list[SourceCut]]:
    """Cut some normalized frames, or parts of them, out of their source."""
    source = CutSource(
        video.start_time_s if video.time_source == "pts" else None, video.region, video.width_px, video.height_px
    )
    edges = np.array(edges_px or [(0, 0, video.width_px, video.height_px)])
    rows = video.frames
    cuts = [FrameCuts(rows.source_frame_index[index], rows.time_s[index], edges) for index in indices]
    return cut_source(path, source, cuts, VideoSettings(), 95, lambda *_: None)


def decode(part: SourceCut) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(part.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and image.shape[:2] == (part.height_px, part.width_px)
    return np.asarray(image)


@pytest.mark.parametrize(
    ("name", "times", "options", "uses_seeks"),
    [
        pytest.param("a.mp4", 120, {"rate": 25, "options": {"g": "30"}}, True, id="constant rate"),
        pytest.param("b.mp4", 120, {"rate": Fraction(30000, 1001), "options": B_FRAMES}, True, id="b-frames"),
        pytest.param("c.mkv", VARIABLE, {"rate": 25, "options": B_FRAMES}, True, id="variable rate"),
        pytest.param("d.mp4", 120, {"rate": 25, "clockwise_deg": 90, "size": SIZE_PX[::-1]}, True, id="rotated"),
        pytest.param("e.ts", 120, {"rate": 25, "options": B_FRAMES}, False, id="without an index"),
        pytest.param("f.avi", 120, {"rate": 25, "codec": "mpeg4"}, False, id="without timestamps"),
    ],
)
def test_parts_are_cut_from_the_right_frame_at_full_size(
    make_video: MakeVideo,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    times: Any,
    options: dict[str, Any],
    uses_seeks: bool,
) -> None:
    path = make_video(name, times, **{"size": SIZE_PX, **options})
    video = normalize(path, tmp_path / "out.mp4", VideoSettings(max_height_px=80))
    counted = []
    count_frames = source_finder.count_frames

    def record(container: Any, stream: Any, cuts: Any) -> Any:
        counted.extend(cuts)
        return count_frames(container, stream, cuts)

    monkeypatch.setattr(source_cuts, "count_frames", record)
    parts = cut(path, video, INDICES)
    assert [read_number(decode(part)) for (part,) in parts] == list(INDICES)
    assert {(part.width_px, part.height_px) for (part,) in parts} == {SIZE_PX}
    assert parts[0][0].scale == pytest.approx(3, rel=0.01)
    assert counted == ([] if uses_seeks else list(INDICES))


def test_parts_show_what_the_normalized_video_shows(make_video: MakeVideo, tmp_path: Path) -> None:
    settings = VideoSettings(max_height_px=80, region=(0.25, 0.1, 1, 0.9), every_nth=2, start_s=1)
    path = make_video("a.mp4", 90, rate=25, size=(480, 360), aspect=Fraction(4, 3), options=B_FRAMES)
    video = normalize(path, tmp_path / "out.mp4", settings)
    edges = [(0, 0, video.width_px, video.height_px), (31, 17, 90, 71)]
    ((whole, part),) = cut(path, video, [20], edges)
    (image,) = read_images(tmp_path / "out.mp4", [20], video.rate_fps)
    for cut_part, (left, top, right, bottom) in zip((whole, part), edges, strict=True):
        expected = image[top:bottom, left:right]
        size = expected.shape[1], expected.shape[0]
        difference = cv2.absdiff(cv2.resize(decode(cut_part), size, interpolation=cv2.INTER_AREA), expected)
        assert difference.mean() < 8
    assert whole.width_px == pytest.approx(480 * 4 / 3 * 0.75, abs=2)


def test_a_frame_that_the_file_lacks_is_named(make_video: MakeVideo, tmp_path: Path) -> None:
    path = make_video("a.mp4", 30, size=SIZE_PX)
    video = normalize(path, tmp_path / "out.mp4", VideoSettings(max_height_px=80))
    shorter = make_video("b.mp4", 20, size=SIZE_PX)
    with pytest.raises(RecordingError, match=r"lacks frames that have crops \(first: frame 25\): materialize"):
        cut(shorter, video, [5, 25])
