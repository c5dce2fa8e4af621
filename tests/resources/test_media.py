from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from demo.scenes import demo_scene, write_video
from resources.errors import RejectedRecordingError
from resources.media.measuring import Glimpses
from resources.media.normalizing import NormalizedVideo, normalize
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


def bands(path: Path, levels: tuple[int, ...], pixel_format: str = "yuv420p10le", **colour: int) -> Path:
    """Five pictures of vertical bands, the luma of each given in 10 bits."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=5)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64 * len(levels), 96, pixel_format
        stream.options = {"x265-params": "log-level=none", "crf": "5", "preset": "ultrafast"}
        for name, value in colour.items():
            setattr(stream.codec_context, name, value)
        row = np.repeat(np.array(levels, np.uint16), 64)
        for k in range(5):
            frame = av.VideoFrame(stream.width, stream.height, pixel_format)
            for number, plane in enumerate(frame.planes):
                content = np.full((plane.height, plane.line_size // 2), 512, np.uint16)
                if number == 0:
                    content[:, : row.size] = row
                plane.update(content.tobytes())
            frame.pts = k
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("transfer", [16, 18])  # PQ and HLG
def test_high_dynamic_range_is_tone_mapped(tmp_path: Path, transfer: int) -> None:
    levels = (64, 300, 500, 650, 800, 940)
    source = bands(tmp_path / "hdr.mp4", levels, color_primaries=9, color_trc=transfer, colorspace=9)
    assert probe(source, VIDEO).color_transfer in ("smpte2084", "arib_std_b67")
    normalize(source, tmp_path / "out.mp4", VIDEO)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range) == (1, 1, 1, 1)
    luma = frame.to_ndarray()[48, 32 : 64 * len(levels) : 64].astype(int)
    # Highlights are rolled off, not clipped: each band stays brighter than the one before, none beyond white.
    assert np.all(np.diff(luma) > 5)
    assert luma[0] <= 20 and 150 < luma[-1] <= 237


def test_the_region_of_interest_is_cut_out_of_the_upright_picture(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.mp4", 5, size=(128, 96), clockwise_deg=90)
    half = VideoSettings(region=(0.0, 0.5, 1.0, 1.0))
    whole, lower = tmp_path / "whole.mp4", tmp_path / "lower.mp4"
    normalize(source, whole, VIDEO)
    video = normalize(source, lower, half)
    assert (video.width_px, video.height_px) == (96, 64)
    for (_, one), (_, other) in zip(read_frames(whole), read_frames(lower), strict=True):
        assert np.abs(one[64:].astype(int) - other).mean() < 4


def test_grey_has_no_colour(tmp_path: Path) -> None:
    write_video(demo_scene(1, 5, {"car": 1}), tmp_path / "colour.mp4")
    normalize(tmp_path / "colour.mp4", tmp_path / "out.mp4", VideoSettings(is_colour=False))
    with av.open(str(tmp_path / "out.mp4")) as container:
        yuv = next(container.decode(video=0)).to_ndarray()
    luma_rows = yuv.shape[0] * 2 // 3
    assert np.abs(yuv[luma_rows:].astype(int) - 128).max() <= 2
    assert yuv[:luma_rows].std() > 10


def test_a_conforming_file_may_serve_itself(make_video: MakeVideo, tmp_path: Path) -> None:
    settings = VideoSettings(when_conforming="reference")
    assert normalize(make_video("a.mp4", 10), tmp_path / "a-out.mp4", settings).made_by == "reference"
    assert not (tmp_path / "a-out.mp4").exists()
    # Browsers do not play Matroska.
    assert normalize(make_video("b.mkv", 10), tmp_path / "b-out.mp4", settings).made_by == "remux"


def test_a_time_range_keeps_the_clock_of_the_source(make_video: MakeVideo, tmp_path: Path) -> None:
    video = normalize(make_video("a.mp4", 60, rate=10), tmp_path / "out.mp4", VideoSettings(start_s=2, end_s=3))
    assert list(video.frames.source_frame_index) == shown_numbers(tmp_path / "out.mp4") == list(range(20, 30))
    assert np.allclose(video.frames.time_s, np.arange(20, 30) / 10, atol=0.001)
    with pytest.raises(RejectedRecordingError, match="nothing between 7 s and its end"):
        normalize(make_video("b.mp4", 60, rate=10), tmp_path / "out.mp4", VideoSettings(start_s=7))


def test_pictures_that_grow_beyond_the_bound_are_not_decoded(make_video: MakeVideo, tmp_path: Path) -> None:
    small, large = make_video("small.ts", 20, size=(128, 96)), make_video("large.ts", 20, size=(1280, 960))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    video = normalize(joined, tmp_path / "out.mp4", VideoSettings(max_pixels=100_000))
    assert video.ledger.decoded_count < 21 < video.ledger.packet_count
    assert video.ledger.corrupt_count > 15
    grown = normalize(joined, tmp_path / "out.mp4", VIDEO)
    assert grown.ledger.decoded_count == 40 and (grown.width_px, grown.height_px) == (128, 96)


def test_what_an_edit_list_leaves_out_is_counted_and_not_shown(make_video: MakeVideo, tmp_path: Path) -> None:
    whole = make_video("whole.mp4", 40, rate=10, options={"g": "40", "bf": "0"})
    edited = tmp_path / "edited.mp4"
    with av.open(str(whole)) as source, av.open(str(edited), "w", options={"avoid_negative_ts": "disabled"}) as target:
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size and packet.pts is not None and packet.dts is not None and packet.time_base is not None:
                shift = int(1 / packet.time_base)  # the first second lies before the start
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copied
                target.mux(packet)
    video = normalize(edited, tmp_path / "out.mp4", VIDEO)
    ledger = video.ledger
    assert (ledger.packet_count, ledger.discarded_count, ledger.corrupt_count) == (40, 10, 0)
    assert shown_numbers(tmp_path / "out.mp4") == list(range(10, 40))
    assert video.frames.time_s[0] == 0


def test_losses_are_told_by_the_stretch(make_video: MakeVideo, tmp_path: Path) -> None:
    """Ten seconds with a picture a packet, those of two seconds overwritten: these two seconds are missing."""
    source = make_video("a.mov", 100, rate=10, codec="mjpeg", pixel_format="yuvj420p")
    with av.open(str(source)) as container:
        places = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos is not None]
    content = bytearray(source.read_bytes())
    for position, size in places[40:60]:
        content[position : position + size] = bytes(size)
    source.write_bytes(content)
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    assert (video.ledger.packet_count, video.ledger.decoded_count, video.ledger.corrupt_count) == (100, 80, 20)
    assert np.allclose(video.ledger.missing_s, [(4.0, 6.0)], atol=0.02)
    assert shown_numbers(tmp_path / "out.mp4")[:40] == list(range(40))
    assert video.frames.time_s[-1] == pytest.approx(9.9, abs=0.01)
    assert max(video.frames.gap_s) == pytest.approx(2.0, abs=0.02)


def test_a_file_is_a_file_whatever_its_name(make_video: MakeVideo, tmp_path: Path) -> None:
    for name in ("concat:a|b.mp4", "a;touch x.mp4", "$(touch x).mp4", "-i.mp4", "%03d.mp4", "naïve ☃.mp4", "a\nb.mp4"):
        source = make_video("plain.mp4", 3).rename(tmp_path / name)
        assert normalize(source, tmp_path / "out.mp4", VIDEO).ledger.decoded_count == 3, name
    assert not (tmp_path / "x").exists() and not Path("x").exists()


def test_lists_of_other_files_are_refused(make_video: MakeVideo, tmp_path: Path) -> None:
    make_video("secret.mp4", 3)
    for content in ("ffconcat version 1.0\nfile secret.mp4\n", "#EXTM3U\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"):
        (tmp_path / "list.mp4").write_text(content)
        with pytest.raises(RejectedRecordingError):
            probe(tmp_path / "list.mp4", VIDEO)


def test_measures_tell_bright_from_dark_sharp_from_blurred_and_still_from_moving(tmp_path: Path) -> None:
    blocks = np.random.default_rng(1).integers(0, 255, (12, 16), np.uint8)
    noise = np.repeat(np.kron(blocks, np.ones((8, 8), np.uint8))[:, :, None], 3, axis=2)
    soft = np.full_like(noise, 128)
    black, white = np.zeros_like(noise), np.full_like(noise, 255)
    write_pictures(tmp_path / "a.mkv", [noise, noise, soft, black, white, white])
    measures = normalize(tmp_path / "a.mkv", tmp_path / "out.mp4", VIDEO).measures
    assert measures.brightness[3] < 17 < 120 < measures.brightness[2] < 135 < 230 < measures.brightness[4]
    assert measures.sharpness[0] > 100 > 5 > measures.sharpness[2]
    assert measures.motion[0] == 0 and measures.motion[1] < 3 and measures.motion[4] > 200
    assert measures.scene_score[4] > 0.3 > 0.02 > measures.scene_score[1]
    assert (measures.black_share[3], measures.black_share[4]) == (1, 0)


def write_pictures(path: Path, pictures: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=5)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = pictures[0].shape[1], pictures[0].shape[0], "yuvj420p"
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_variable_rate_recording_keeps_the_times_of_its_packets(corpus: Path, tmp_path: Path) -> None:
    source = corpus / "awkward" / "var_fps.mp4"
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        pts_s = sorted(float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None and p.time_base)
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    own = [k for k, is_duplicated in enumerate(video.frames.is_duplicated) if not is_duplicated]
    errors = [abs(video.frames.time_s[k] - pts_s[video.frames.source_frame_index[k]] + pts_s[0]) for k in own]
    assert max(errors) < 0.001
    assert video.is_variable_rate


def test_awkward_recordings_become_what_a_player_shows(corpus: Path, tmp_path: Path) -> None:
    def made(name: str) -> NormalizedVideo:
        return normalize(corpus / "awkward" / name, tmp_path / "out.mp4", VIDEO)

    assert (made("sar_2x1.mp4").width_px, made("rotate-90.mp4").height_px) == (1280, 1080)
    taken = probe(corpus / "awkward" / "two_video_streams.mp4", VIDEO)
    assert (taken.stream_index, taken.video_stream_count, taken.coded_width_px) == (3, 2, 480)
    late = made("starts_mid_gop.ts")
    first_pts_s = probe(corpus / "awkward" / "starts_mid_gop.ts", VIDEO).start_time_s_from_header
    assert first_pts_s is not None and late.start_time_s == pytest.approx(first_pts_s + late.lead_s, abs=0.05)
    assert np.allclose(late.ledger.missing_s, [(-late.lead_s, 0.0)])
    assert late.frames.time_s[0] == 0 and late.ledger.decoded_count == 15


def test_no_line_of_an_interlaced_recording_is_combed(corpus: Path, tmp_path: Path) -> None:
    """Combing makes neighbouring lines differ more than lines two apart."""
    normalize(corpus / "awkward" / "interlaced_576i.ts", tmp_path / "out.mp4", VIDEO)
    for _, picture in read_frames(tmp_path / "out.mp4", "gray", wanted=range(5, 60, 5)):
        lines = picture.astype(int)
        assert np.abs(lines[1:] - lines[:-1])[:-1].mean() < np.abs(lines[2:] - lines[:-2]).mean()


@pytest.mark.parametrize(
    ("frame_count", "changed", "expected"),
    [
        (1, {}, 1),
        (5, {}, 5),
        (100, {}, 13),
        (100, {"when_conforming": "encode"}, 13),
        (100, {"every_nth": 4}, 13),
        (100, {"start_s": 1.0, "end_s": 3.0}, 12),
    ],
)
def test_small_pictures_spread_over_the_recording_are_kept(
    make_video: MakeVideo, tmp_path: Path, frame_count: int, changed: dict[str, Any], expected: int
) -> None:
    source = make_video("a.mp4", frame_count, size=(640, 384))
    told: list[np.ndarray] = []

    def progress(done: int, total: int, picture: np.ndarray | None = None, /) -> None:
        if picture is not None:
            told.append(picture)

    video = normalize(source, tmp_path / "out.mp4", VideoSettings(**changed), progress)
    kept = video.measures.glimpses.kept
    assert len(kept) == expected
    assert {picture.shape for _, picture in kept} == {(192, 320, 3)}
    shown = [number_in(picture) for _, picture in kept]
    assert shown == [video.frames.source_frame_index[frame_index] for frame_index, _ in kept]
    assert {id(picture) for picture in told} <= {id(picture) for _, picture in kept}


def test_small_pictures_are_few_also_where_their_number_was_not_known() -> None:
    glimpses = Glimpses()
    frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
    for frame_index in range(1000):
        glimpses.add(frame_index, frame)
    places = [frame_index for frame_index, _ in glimpses.kept]
    assert 12 <= len(places) <= 24
    assert len(set(np.diff(places))) == 1 and places[0] == 0 and places[-1] > 900
