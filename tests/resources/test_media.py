from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from resources.errors import RejectedRecordingError
from resources.media.normalizing import normalize
from resources.media.probing import probe
from resources.media.reading import read_frames
from resources.settings import VideoSettings
from tests.conftest import MakeVideo, number_in

VIDEO = VideoSettings()


def shown_numbers(path: Path) -> list[int]:
    return [number_in(picture) for _, picture in read_frames(path)]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),
        ("b.mkv", "libx264", {"bf": "3", "g": "12"}),
        ("c.ts", "libx264", {"bf": "2", "g": "10"}),
        ("d.avi", "mpeg4", {}),
        ("e.mov", "libx264", {"bf": "2"}),
        ("f.h264", "libx264", {"bf": "0"}),
    ],
)
@pytest.mark.parametrize("rate", [Fraction(10), Fraction(25), Fraction(30000, 1001)])
def test_a_constant_rate_keeps_every_picture_in_its_place(
    make_video: MakeVideo, tmp_path: Path, name: str, codec: str, options: dict[str, str], rate: Fraction
) -> None:
    source = make_video(name, 37, rate=rate, codec=codec, options=options)
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    assert video.ledger.decoded_count == len(video.frames) == 37
    assert (video.decimated_count, video.duplicated_count, video.ledger.corrupt_count) == (0, 0, 0)
    assert shown_numbers(tmp_path / "out.mp4") == list(range(37)) == list(video.frames.source_frame_index)
    if not name.endswith(".h264"):  # a raw stream carries no rate
        assert video.rate_fps == rate
        assert np.allclose(video.frames.time_s, np.arange(37) / float(rate), atol=0.002)


def test_a_conforming_source_is_taken_over_without_encoding(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.mp4", 30, options={"bf": "2"})
    assert normalize(source, tmp_path / "out.mp4", VIDEO).made_by == "remux"
    before = [frame.to_ndarray() for frame in av.open(str(source)).decode(video=0)]
    after = [frame.to_ndarray() for frame in av.open(str(tmp_path / "out.mp4")).decode(video=0)]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))


def test_variable_rates_keep_their_times(make_video: MakeVideo, tmp_path: Path) -> None:
    steps = [1, 1, 1, 4, 1, 1, 2, 1, 1, 1, 7, 1, 1]
    times = [Fraction(sum(steps[:k]), 20) for k in range(len(steps) + 1)]
    source = make_video("vfr.mp4", times, rate=20)
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    assert video.rate_fps == 20
    assert len(video.frames) == sum(steps) + 1
    assert shown_numbers(tmp_path / "out.mp4") == list(video.frames.source_frame_index)
    own = [k for k, is_duplicated in enumerate(video.frames.is_duplicated) if not is_duplicated]
    assert [video.frames.source_frame_index[k] for k in own] == list(range(len(times)))
    assert np.allclose([video.frames.time_s[k] for k in own], [float(t) for t in times], atol=0.001)
    assert np.all(np.diff(video.frames.time_s) > 0)


def test_a_long_hole_is_noted_not_filled(make_video: MakeVideo, tmp_path: Path) -> None:
    times = [*(Fraction(k, 10) for k in range(12)), *(Fraction(k, 10) + 60 for k in range(12, 20))]
    source = make_video("hole.mkv", times, rate=10)
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    assert len(video.frames) == 20
    assert video.frames.gap_s[12] == pytest.approx(60, abs=0.01)
    assert sum(gap > 0 for gap in video.frames.gap_s) == 1
    assert video.frames.time_s[-1] == pytest.approx(61.9, abs=0.01)


def test_rate_and_height_are_bounded(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("fast.mp4", 60, rate=60, size=(256, 192))
    video = normalize(source, tmp_path / "out.mp4", VideoSettings(max_rate_fps=20, max_height_px=96))
    assert video.rate_fps == 20
    assert (video.width_px, video.height_px) == (128, 96)
    assert len(video.frames) + video.decimated_count == 60
    assert shown_numbers(tmp_path / "out.mp4") == list(video.frames.source_frame_index)
    assert np.all(np.abs(np.array(video.frames.time_s) - np.arange(len(video.frames)) / 20) <= 0.5 / 20 + 1e-6)


def test_wide_pixels_become_square(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("wide.mp4", 5, size=(128, 96), aspect=Fraction(2))
    assert probe(source, VIDEO).sample_aspect_ratio == 2
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    assert (video.width_px, video.height_px) == (256, 96)


def test_the_first_keyframe_comes_at_zero_and_others_follow(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.mkv", 100, rate=10, pixel_format="yuv444p")
    assert normalize(source, tmp_path / "out.mp4", VIDEO).made_by == "encode"
    with av.open(str(tmp_path / "out.mp4")) as container:
        keys = [frame.time for frame in container.decode(video=0) if frame.key_frame]
    assert keys[0] == 0
    assert max(np.diff(keys)) <= 2.01


def test_only_wanted_frames_are_converted(make_video: MakeVideo, tmp_path: Path) -> None:
    normalize(make_video("a.mp4", 30), tmp_path / "out.mp4", VIDEO)
    found = {index: number_in(picture) for index, picture in read_frames(tmp_path / "out.mp4", wanted=[3, 4, 20])}
    assert found == {3: 3, 4: 4, 20: 20}


@pytest.mark.parametrize("content", [b"", b"not a video at all", b"\x00" * 5000])
def test_what_is_no_video_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "fake.mp4"
    file.write_bytes(content)
    with pytest.raises(RejectedRecordingError, match="not a video that can be opened"):
        probe(file, VIDEO)


def test_a_claim_of_too_many_pixels_is_refused(make_video: MakeVideo) -> None:
    with pytest.raises(RejectedRecordingError, match=r"128x96 pixels, more than video.max_pixels"):
        probe(make_video("a.mp4", 2), VideoSettings(max_pixels=1000))


def test_a_cut_file_gives_what_decodes(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("long.mkv", 100, options={"g": "10"})
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    video = normalize(cut, tmp_path / "out.mp4", VIDEO)
    assert 20 < video.ledger.decoded_count < 80
    assert shown_numbers(tmp_path / "out.mp4")[:20] == list(range(20))


def test_real_recordings_keep_every_frame(corpus: Path, tmp_path: Path) -> None:
    """Files of a constant rate: as many normalized frames as a plain decode finds, in every one."""
    for name in ("traffic_camera.mp4", "bottle-detection.mp4", "asl_help.mkv", "junction/Cars-Cyclist_rotated-180.mp4"):
        source = corpus / "recordings" / name
        with av.open(str(source)) as container:
            expected = sum(1 for _ in container.decode(video=0))
        video = normalize(source, tmp_path / "out.mp4", VIDEO)
        assert len(video.frames) == video.ledger.decoded_count == expected, name
        assert sum(1 for _ in read_frames(tmp_path / "out.mp4", wanted=range(expected))) == expected, name


def test_broken_recordings_are_refused_or_partial(corpus: Path, tmp_path: Path) -> None:
    for name in ("audio_only.mp4", "twenty_bytes.mp4", "undecodable.ts"):
        with pytest.raises(RejectedRecordingError):
            probe(corpus / "broken" / name, VIDEO)
    video = normalize(corpus / "broken" / "truncated_at_100000_bytes.mp4", tmp_path / "out.mp4", VIDEO)
    assert video.ledger.decoded_count == 6
