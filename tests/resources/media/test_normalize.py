from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from demo.drawn_scenes.demo_scenes import demo_scene
from demo.drawn_scenes.video_files import write_video
from resources.config.media_config import VideoSettings
from resources.errors import RejectedRecordingError
from resources.media.frame_measures import SampledFrames
from resources.media.frame_reader import decode_frames, read_images
from resources.media.normalize import normalize
from resources.media.normalized_file import NormalizedVideo
from resources.media.probe import probe
from tests.builders.numbered_videos import MakeVideo, read_number
from tests.builders.video_files import set_avi_rate, write_images_as_video

VIDEO = VideoSettings()


def frame_numbers(path: Path, video: NormalizedVideo) -> list[int]:
    """The numbers in all frames of a normalized video, in order."""
    return [read_number(image) for image in read_images(path, None, video.rate_fps)]


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
def test_every_frame_of_a_constant_rate_source_keeps_its_index_and_time(
    make_video: MakeVideo, tmp_path: Path, name: str, codec: str, options: dict[str, str], rate: Fraction
) -> None:
    source = make_video(name, 37, rate=rate, codec=codec, options=options)
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    assert video.ledger.decoded_count == len(video.frames) == 37
    assert (video.decimated_count, video.duplicated_count, video.ledger.corrupt_count) == (0, 0, 0)
    assert frame_numbers(tmp_path / "out.mp4", video) == list(range(37)) == list(video.frames.source_frame_index)
    if not name.endswith(".h264"):  # a raw stream has no frame rate
        assert video.rate_fps == rate
        assert np.allclose(video.frames.time_s, np.arange(37) / float(rate), atol=0.002)


def test_a_source_that_changes_its_size_becomes_a_video_of_one_size(make_video: MakeVideo, tmp_path: Path) -> None:
    joined, small = (
        make_video(name, count, rate=10, size=size, options={"bf": "0"})
        for name, count, size in (("a.h264", 8, (256, 192)), ("b.h264", 4, (128, 96)))
    )
    joined.write_bytes(joined.read_bytes() + small.read_bytes())
    with av.open(str(joined)) as source, av.open(str(tmp_path / "a.ts"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.pts, packet.dts, packet.time_base = 9000 * index, 9000 * index, Fraction(1, 90_000)
            packet.stream = stream
            target.mux(packet)
    video = normalize(tmp_path / "a.ts", tmp_path / "out.mp4", VIDEO)
    sizes = {(frame.width, frame.height) for frame in av.open(str(tmp_path / "out.mp4")).decode(video=0)}
    assert (video.normalized_by, len(video.frames), sizes) == ("encode", 12, {(video.width_px, video.height_px)})


def test_a_conforming_source_is_remuxed_without_encoding(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.mp4", 30, options={"bf": "2"})
    assert normalize(source, tmp_path / "out.mp4", VIDEO).normalized_by == "remux"
    source_frames = [frame.to_ndarray() for frame in av.open(str(source)).decode(video=0)]
    remuxed_frames = [frame.to_ndarray() for frame in av.open(str(tmp_path / "out.mp4")).decode(video=0)]
    assert all(np.array_equal(*pair) for pair in zip(source_frames, remuxed_frames, strict=True))


def test_frames_of_a_variable_rate_source_keep_their_times(make_video: MakeVideo, tmp_path: Path) -> None:
    steps = [1, 1, 1, 4, 1, 1, 2, 1, 1, 1, 7, 1, 1]
    times = [Fraction(sum(steps[:k]), 20) for k in range(len(steps) + 1)]
    source = make_video("vfr.mp4", times, rate=20)
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    assert video.rate_fps == 20
    assert len(video.frames) == sum(steps) + 1
    assert frame_numbers(tmp_path / "out.mp4", video) == list(video.frames.source_frame_index)
    originals = [k for k, is_duplicated in enumerate(video.frames.is_duplicated) if not is_duplicated]
    assert [video.frames.source_frame_index[k] for k in originals] == list(range(len(times)))
    assert np.allclose([video.frames.time_s[k] for k in originals], [float(t) for t in times], atol=0.001)
    assert np.all(np.diff(video.frames.time_s) > 0)


def test_a_long_gap_is_recorded_and_not_filled(make_video: MakeVideo, tmp_path: Path) -> None:
    times = [*(Fraction(k, 10) for k in range(12)), *(Fraction(k, 10) + 60 for k in range(12, 20))]
    source = make_video("gap.mkv", times, rate=10)
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    assert len(video.frames) == 20
    assert video.frames.gap_s[12] == pytest.approx(60, abs=0.01)
    assert sum(gap > 0 for gap in video.frames.gap_s) == 1
    assert video.frames.time_s[-1] == pytest.approx(61.9, abs=0.01)


def test_settings_limit_rate_and_height(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("fast.mp4", 60, rate=60, size=(256, 192))
    video = normalize(source, tmp_path / "out.mp4", VideoSettings(max_rate_fps=20, max_height_px=96))
    assert video.rate_fps == 20
    assert (video.width_px, video.height_px) == (128, 96)
    assert len(video.frames) + video.decimated_count == 60
    assert frame_numbers(tmp_path / "out.mp4", video) == list(video.frames.source_frame_index)
    assert np.all(np.abs(np.array(video.frames.time_s) - np.arange(len(video.frames)) / 20) <= 0.5 / 20 + 1e-6)


def test_a_reduced_rate_does_not_change_the_duration(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("second.mp4", 25, rate=25)
    for rate_fps in (0.001, 0.5, 10, None):
        video = normalize(source, tmp_path / "out.mp4", VideoSettings(max_rate_fps=rate_fps))
        assert video.duration_s == pytest.approx(1, abs=0.05), rate_fps


def test_non_square_pixels_become_square(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("wide.mp4", 5, size=(128, 96), aspect=Fraction(2))
    assert probe(source, VIDEO).sample_aspect_ratio == 2
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    assert (video.width_px, video.height_px) == (256, 96)


def test_keyframes_come_at_zero_and_every_two_seconds(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.mkv", 100, rate=10, pixel_format="yuv444p")
    assert normalize(source, tmp_path / "out.mp4", VIDEO).normalized_by == "encode"
    with av.open(str(tmp_path / "out.mp4")) as container:
        keyframe_times_s = [frame.time for frame in container.decode(video=0) if frame.key_frame]
    assert keyframe_times_s[0] == 0
    assert max(np.diff(keyframe_times_s)) <= 2.01


def test_single_frames_of_a_normalized_video_are_read_by_index(make_video: MakeVideo, tmp_path: Path) -> None:
    video = normalize(make_video("a.mp4", 30), tmp_path / "out.mp4", VIDEO)
    images = read_images(tmp_path / "out.mp4", [3, 4, 20], video.rate_fps)
    assert [read_number(image) for image in images] == [3, 4, 20]


@pytest.mark.parametrize("content", [b"", b"not a video at all", b"\x00" * 5000])
def test_a_file_that_is_not_a_video_is_rejected_with_a_reason(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "fake.mp4"
    file.write_bytes(content)
    with pytest.raises(RejectedRecordingError, match="not a video that can be opened"):
        probe(file, VIDEO)


def test_a_frame_size_above_the_limit_is_rejected(make_video: MakeVideo) -> None:
    with pytest.raises(RejectedRecordingError, match=r"frame size 128x96 exceeds video.max_pixels \(1,000\)"):
        probe(make_video("a.mp4", 2), VideoSettings(max_pixels=1000))


def test_a_truncated_file_yields_the_frames_that_decode(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("long.mkv", 100, options={"g": "10"})
    truncated = tmp_path / "truncated.mkv"
    truncated.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    video = normalize(truncated, tmp_path / "out.mp4", VIDEO)
    assert 20 < video.ledger.decoded_count < 80
    assert frame_numbers(tmp_path / "out.mp4", video)[:20] == list(range(20))


@pytest.mark.slow
def test_real_recordings_keep_every_frame(corpus: Path, tmp_path: Path) -> None:
    """The files have a constant rate, so that each has as many normalized frames as a plain decode yields."""
    for name in ("traffic_camera.mp4", "bottle-detection.mp4", "asl_help.mkv", "junction/Cars-Cyclist_rotated-180.mp4"):
        source = corpus / "recordings" / name
        with av.open(str(source)) as container:
            expected = sum(1 for _ in container.decode(video=0))
        video = normalize(source, tmp_path / "out.mp4", VIDEO)
        assert len(video.frames) == video.ledger.decoded_count == expected, name
        assert sum(1 for _ in decode_frames(tmp_path / "out.mp4", None, video.rate_fps)) == expected, name


def test_broken_recordings_are_rejected_or_partial(corpus: Path, tmp_path: Path) -> None:
    for name in ("audio_only.mp4", "twenty_bytes.mp4", "undecodable.ts"):
        with pytest.raises(RejectedRecordingError):
            probe(corpus / "broken" / name, VIDEO)
    video = normalize(corpus / "broken" / "truncated_at_100000_bytes.mp4", tmp_path / "out.mp4", VIDEO)
    assert video.ledger.decoded_count == 6


def write_bands(path: Path, levels: tuple[int, ...], pixel_format: str = "yuv420p10le", **colour: int) -> Path:
    """Write five frames of vertical bands with these luma levels, of 10 bits each."""
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


@pytest.mark.slow
@pytest.mark.parametrize("transfer", [16, 18])  # PQ and HLG
def test_high_dynamic_range_is_tone_mapped(tmp_path: Path, transfer: int) -> None:
    levels = (64, 300, 500, 650, 800, 940)
    source = write_bands(tmp_path / "hdr.mp4", levels, color_primaries=9, color_trc=transfer, colorspace=9)
    assert probe(source, VIDEO).color_transfer in ("smpte2084", "arib_std_b67")
    normalize(source, tmp_path / "out.mp4", VIDEO)
    with av.open(str(tmp_path / "out.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range) == (1, 1, 1, 1)
    luma = frame.to_ndarray()[48, 32 : 64 * len(levels) : 64].astype(int)
    # Highlights are rolled off, not clipped: each band stays brighter than the one before, none beyond white.
    assert np.all(np.diff(luma) > 5)
    assert luma[0] <= 20 and 150 < luma[-1] <= 237


def test_the_region_of_interest_is_cropped_from_the_upright_frame(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.mp4", 5, size=(128, 96), clockwise_deg=90)
    lower_half = VideoSettings(region=(0.0, 0.5, 1.0, 1.0))
    full_path, cropped_path = tmp_path / "full.mp4", tmp_path / "cropped.mp4"
    normalize(source, full_path, VIDEO)
    video = normalize(source, cropped_path, lower_half)
    assert (video.width_px, video.height_px) == (96, 64)
    full_images, cropped_images = (read_images(path, None, video.rate_fps) for path in (full_path, cropped_path))
    for full, cropped in zip(full_images, cropped_images, strict=True):
        assert np.abs(full[64:].astype(int) - cropped).mean() < 4


def test_without_colour_chroma_is_neutral(tmp_path: Path) -> None:
    write_video(demo_scene(1, 5, {"car": 1}), tmp_path / "colour.mp4")
    normalize(tmp_path / "colour.mp4", tmp_path / "out.mp4", VideoSettings(is_colour=False))
    with av.open(str(tmp_path / "out.mp4")) as container:
        yuv = next(container.decode(video=0)).to_ndarray()
    luma_rows = yuv.shape[0] * 2 // 3
    assert np.abs(yuv[luma_rows:].astype(int) - 128).max() <= 2
    assert yuv[:luma_rows].std() > 10


def test_a_conforming_source_can_be_referenced(make_video: MakeVideo, tmp_path: Path) -> None:
    settings = VideoSettings(when_conforming="reference")
    assert normalize(make_video("a.mp4", 10), tmp_path / "a-out.mp4", settings).normalized_by == "reference"
    assert not (tmp_path / "a-out.mp4").exists()
    # Browsers do not play Matroska.
    assert normalize(make_video("b.mkv", 10), tmp_path / "b-out.mp4", settings).normalized_by == "remux"


def test_a_time_range_keeps_the_clock_of_the_source(make_video: MakeVideo, tmp_path: Path) -> None:
    video = normalize(make_video("a.mp4", 60, rate=10), tmp_path / "out.mp4", VideoSettings(start_s=2, end_s=3))
    assert list(video.frames.source_frame_index) == frame_numbers(tmp_path / "out.mp4", video) == list(range(20, 30))
    assert np.allclose(video.frames.time_s, np.arange(20, 30) / 10, atol=0.001)
    # The decoder has read packets beyond the range: their frames are out of range, and none is missing.
    assert video.ledger.is_clean
    assert video.ledger.packet_count == video.ledger.decoded_count == len(video.frames) + video.out_of_range_count < 60
    with pytest.raises(RejectedRecordingError, match="no frame between 7 s and its end"):
        normalize(make_video("b.mp4", 60, rate=10), tmp_path / "out.mp4", VideoSettings(start_s=7))


def test_frames_that_grow_beyond_the_limit_are_not_decoded(make_video: MakeVideo, tmp_path: Path) -> None:
    small, large = make_video("small.ts", 20, size=(128, 96)), make_video("large.ts", 20, size=(1280, 960))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    video = normalize(joined, tmp_path / "out.mp4", VideoSettings(max_pixels=100_000))
    assert video.ledger.decoded_count < 21 < video.ledger.packet_count
    assert video.ledger.corrupt_count > 15
    unlimited = normalize(joined, tmp_path / "out.mp4", VIDEO)
    assert unlimited.ledger.decoded_count == 40 and (unlimited.width_px, unlimited.height_px) == (128, 96)


def test_frames_that_an_edit_list_excludes_are_counted_and_omitted(make_video: MakeVideo, tmp_path: Path) -> None:
    unedited = make_video("unedited.mp4", 40, rate=10, options={"g": "40", "bf": "0"})
    edited = tmp_path / "edited.mp4"
    with (
        av.open(str(unedited)) as source,
        av.open(str(edited), "w", options={"avoid_negative_ts": "disabled"}) as target,
    ):
        stream = source.streams.video[0]
        target_stream = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size and packet.pts is not None and packet.dts is not None and packet.time_base is not None:
                shift = int(1 / packet.time_base)  # the first second is before the start
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, target_stream
                target.mux(packet)
    video = normalize(edited, tmp_path / "out.mp4", VIDEO)
    ledger = video.ledger
    assert (ledger.packet_count, ledger.discarded_count, ledger.corrupt_count) == (40, 10, 0)
    assert frame_numbers(tmp_path / "out.mp4", video) == list(range(10, 40))
    assert video.frames.time_s[0] == 0


def test_missing_intervals_are_reported(make_video: MakeVideo, tmp_path: Path) -> None:
    """Of ten seconds of intra frames, the packets of two seconds are overwritten: these two seconds are missing."""
    source = make_video("a.mov", 100, rate=10, codec="mjpeg", pixel_format="yuvj420p")
    with av.open(str(source)) as container:
        packet_ranges = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.pos is not None]
    content = bytearray(source.read_bytes())
    for position, size in packet_ranges[40:60]:
        content[position : position + size] = bytes(size)
    source.write_bytes(content)
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    assert (video.ledger.packet_count, video.ledger.decoded_count, video.ledger.corrupt_count) == (100, 80, 20)
    assert np.allclose(video.ledger.missing_s, [(4.0, 6.0)], atol=0.02)
    assert frame_numbers(tmp_path / "out.mp4", video)[:40] == list(range(40))
    assert video.frames.time_s[-1] == pytest.approx(9.9, abs=0.01)
    assert max(video.frames.gap_s) == pytest.approx(2.0, abs=0.02)


def test_no_file_name_is_interpreted_as_a_protocol_or_command(make_video: MakeVideo, tmp_path: Path) -> None:
    for name in ("concat:a|b.mp4", "a;touch x.mp4", "$(touch x).mp4", "-i.mp4", "%03d.mp4", "naïve ☃.mp4", "a\nb.mp4"):
        source = make_video("plain.mp4", 3).rename(tmp_path / name)
        assert normalize(source, tmp_path / "out.mp4", VIDEO).ledger.decoded_count == 3, name
    assert not (tmp_path / "x").exists() and not Path("x").exists()


def test_playlists_are_rejected(make_video: MakeVideo, tmp_path: Path) -> None:
    make_video("secret.mp4", 3)
    for content in ("ffconcat version 1.0\nfile secret.mp4\n", "#EXTM3U\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"):
        (tmp_path / "list.mp4").write_text(content)
        with pytest.raises(RejectedRecordingError):
            probe(tmp_path / "list.mp4", VIDEO)


def test_measures_distinguish_brightness_sharpness_and_motion(tmp_path: Path) -> None:
    blocks = np.random.default_rng(1).integers(0, 255, (12, 16), np.uint8)
    noise = np.repeat(np.kron(blocks, np.ones((8, 8), np.uint8))[:, :, None], 3, axis=2)
    soft = np.full_like(noise, 128)
    black, white = np.zeros_like(noise), np.full_like(noise, 255)
    write_images_as_video(tmp_path / "a.mkv", [noise, noise, soft, black, white, white])
    measures = normalize(tmp_path / "a.mkv", tmp_path / "out.mp4", VIDEO).measures
    assert measures.brightness[3] < 17 < 120 < measures.brightness[2] < 135 < 230 < measures.brightness[4]
    assert measures.sharpness[0] > 100 > 5 > measures.sharpness[2]
    assert measures.motion[0] == 0 and measures.motion[1] < 3 and measures.motion[4] > 200
    assert measures.scene_score[4] > 0.3 > 0.02 > measures.scene_score[1]
    assert (measures.black_share[3], measures.black_share[4]) == (1, 0)


def test_a_real_variable_rate_recording_keeps_the_pts_of_its_packets(corpus: Path, tmp_path: Path) -> None:
    source = corpus / "awkward" / "var_fps.mp4"
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        pts_s = sorted(float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None and p.time_base)
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    originals = [k for k, is_duplicated in enumerate(video.frames.is_duplicated) if not is_duplicated]
    errors_s = [abs(video.frames.time_s[k] - pts_s[video.frames.source_frame_index[k]] + pts_s[0]) for k in originals]
    assert max(errors_s) < 0.001
    assert video.is_variable_rate


@pytest.mark.slow
def test_awkward_recordings_are_normalized_as_a_player_shows_them(corpus: Path, tmp_path: Path) -> None:
    def normalize_awkward(name: str) -> NormalizedVideo:
        return normalize(corpus / "awkward" / name, tmp_path / "out.mp4", VIDEO)

    assert (normalize_awkward("sar_2x1.mp4").width_px, normalize_awkward("rotate-90.mp4").height_px) == (1280, 1080)
    probed = probe(corpus / "awkward" / "two_video_streams.mp4", VIDEO)
    assert (probed.stream_index, probed.video_stream_count, probed.coded_width_px) == (3, 2, 480)
    video = normalize_awkward("starts_mid_gop.ts")
    first_pts_s = probe(corpus / "awkward" / "starts_mid_gop.ts", VIDEO).start_time_s_from_header
    assert first_pts_s is not None and video.start_time_s == pytest.approx(first_pts_s + video.lead_s, abs=0.05)
    assert np.allclose(video.ledger.missing_s, [(-video.lead_s, 0.0)])
    assert video.frames.time_s[0] == 0 and video.ledger.decoded_count == 15


def test_interlaced_recordings_are_deinterlaced(corpus: Path, tmp_path: Path) -> None:
    """Combing would make adjacent lines differ more than lines two apart."""
    video = normalize(corpus / "awkward" / "interlaced_576i.ts", tmp_path / "out.mp4", VIDEO)
    for frame in decode_frames(tmp_path / "out.mp4", range(5, 60, 5), video.rate_fps):
        lines = frame.to_ndarray(format="gray").astype(int)
        assert np.abs(lines[1:] - lines[:-1])[:-1].mean() < np.abs(lines[2:] - lines[:-2]).mean()


@pytest.mark.parametrize(
    ("frame_count", "settings", "expected"),
    [
        (1, {}, 1),
        (5, {}, 5),
        (100, {}, 13),
        (100, {"when_conforming": "encode"}, 13),
        (100, {"every_nth": 4}, 13),
        (100, {"start_s": 1.0, "end_s": 3.0}, 12),
    ],
)
def test_thumbnails_are_spread_over_the_recording(
    make_video: MakeVideo, tmp_path: Path, frame_count: int, settings: dict[str, Any], expected: int
) -> None:
    source = make_video("a.mp4", frame_count, size=(640, 384))
    reported_images: list[np.ndarray] = []

    def progress(done: int, total: int, image: np.ndarray | None = None, /) -> None:
        if image is not None:
            reported_images.append(image)

    video = normalize(source, tmp_path / "out.mp4", VideoSettings(**settings), progress)
    thumbnails = video.measures.sampled_frames.thumbnails
    assert len(thumbnails) == expected
    assert {image.shape for _, image in thumbnails} == {(192, 320, 3)}
    numbers = [read_number(image) for _, image in thumbnails]
    assert numbers == [video.frames.source_frame_index[frame_index] for frame_index, _ in thumbnails]
    assert {id(image) for image in reported_images} <= {id(image) for _, image in thumbnails}


def test_thumbnails_are_few_even_if_the_frame_count_is_unknown() -> None:
    sampled_frames = SampledFrames()
    frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
    for frame_index in range(1000):
        sampled_frames.add(frame_index, frame)
    frame_indices = [frame_index for frame_index, _ in sampled_frames.thumbnails]
    assert 12 <= len(frame_indices) <= 24
    assert len(set(np.diff(frame_indices))) == 1 and frame_indices[0] == 0 and frame_indices[-1] > 900


@pytest.mark.parametrize(("rate", "scale"), [(1, 4_000_000_000), (4_000_000_000, 1), (1, 90_000)])
def test_an_avi_with_an_impossible_frame_rate_is_rejected_with_a_reason(
    make_video: MakeVideo, tmp_path: Path, rate: int, scale: int
) -> None:
    source = make_video("a.avi", 5, codec="mpeg4")
    set_avi_rate(source, rate, scale)
    with pytest.raises(
        RejectedRecordingError, match=r"^The (frame rate|duration) of the file, .*, is impossible.*: write the"
    ):
        normalize(source, tmp_path / "out.mp4", VIDEO)


def test_an_avi_without_a_frame_rate_has_that_of_its_players(make_video: MakeVideo, tmp_path: Path) -> None:
    source = make_video("a.avi", 5, rate=10, codec="mpeg4")
    set_avi_rate(source, 0, 0)
    video = normalize(source, tmp_path / "out.mp4", VIDEO)
    assert (video.rate_fps, video.time_source, len(video.frames)) == (Fraction(10), "frame_rate", 5)


@pytest.mark.parametrize("step_s", [200_000, 50_000_000])
def test_frames_days_apart_are_rejected_with_a_reason(make_video: MakeVideo, tmp_path: Path, step_s: int) -> None:
    source = make_video("a.mkv", [Fraction(step_s * k) for k in range(4)])
    with pytest.raises(RejectedRecordingError, match="is impossible"):
        normalize(source, tmp_path / "out.mp4", VIDEO)


def test_frames_an_hour_apart_at_a_variable_rate_keep_their_times(make_video: MakeVideo, tmp_path: Path) -> None:
    times_s = [Fraction(t) for t in (0, 3600, 7200, 10_900, 20_000)]
    video = normalize(make_video("a.mkv", times_s), tmp_path / "out.mp4", VIDEO)
    assert list(video.frames.time_s) == [float(t) for t in times_s]
