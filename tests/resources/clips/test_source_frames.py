"""Clips of a recording's file in full resolution have exactly the frames that the normalized video shows."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from cv_assets.normalized_video import frame_rows
from resources.clips.clip_writer import write_source_clip
from resources.clips.frame_canvas import FrameCanvas
from resources.clips.source_frames import SourceFrames
from resources.config.media_config import VideoSettings
from resources.media.normalize import normalize
from tests.builders.numbered_videos import MakeVideo, read_number

VARIABLE_TIMES_S = [Fraction(round(1000 * time_s), 1000) for time_s in np.cumsum([0.04, 0.1, 0.02, 0.08] * 25)]
SIZE = (256, 192)


def read_source(make_video: MakeVideo, tmp_path: Path, name: str, times: Any, **options: Any) -> tuple[Any, Any]:
    """Normalize a numbered video to half its height; returns the result and the reader of its frames."""
    source = make_video(name, times, **{"size": SIZE, **options})
    settings = VideoSettings(max_height_px=96)
    video = normalize(source, tmp_path / "normalized.mp4", settings)
    rows = frame_rows("r", video)
    reader = SourceFrames(
        source,
        settings.model_copy(update={"max_height_px": None}),
        video.start_time_s if video.time_source == "pts" else None,
        rows["source_frame_index"].to_numpy(),
        rows["time_s"].to_numpy(),
    )
    return video, reader


@pytest.mark.parametrize(
    ("name", "times", "options", "size_px"),
    [
        pytest.param("a.mp4", 100, {"rate": 25}, SIZE, id="constant rate", marks=pytest.mark.long),
        pytest.param("a.mkv", VARIABLE_TIMES_S, {"rate": 25}, SIZE, id="variable rate"),
        pytest.param(
            "a.mp4", 100, {"rate": 25, "options": {"bf": "3", "g": "30"}}, SIZE, id="B-frames", marks=pytest.mark.long
        ),
        pytest.param("a.mp4", 100, {"rate": 25, "clockwise_deg": 90}, (192, 256), id="rotated"),
        pytest.param(
            "a.avi", 100, {"rate": 25, "options": {"g": "30"}}, SIZE, id="no timestamps", marks=pytest.mark.long
        ),
    ],
)
def test_a_source_clip_has_the_frames_of_the_normalized_video_at_full_size(
    make_video: MakeVideo, tmp_path: Path, name: str, times: Any, options: dict[str, Any], size_px: tuple[int, int]
) -> None:
    video, reader = read_source(make_video, tmp_path, name, times, **options)
    size_of_video = (video.width_px, video.height_px)
    assert size_of_video[1] == 96
    for first, last in ((0, 20), (41, 67), (70, len(video.frames) - 1)):
        frames, output = range(first, last + 1), tmp_path / f"{first}.mp4"
        write_source_clip(reader.read(frames), frames, size_of_video, video.rate_fps, output, None)
        with av.open(str(output)) as container:
            pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
        assert [read_number(picture) for picture in pictures] == reader.source_indices[first : last + 1].tolist()
        assert pictures[0].shape[1::-1] == size_px


def test_what_is_drawn_is_scaled_to_the_source() -> None:
    frame = av.VideoFrame.from_ndarray(np.zeros((360, 640, 3), np.uint8), format="rgb24").reformat(format="yuv420p")
    canvas = FrameCanvas.of(frame, (320, 90))
    canvas.draw_box((20, 10, 100, 40), (255, 255, 255), 1)
    y, x = np.nonzero(canvas.planes[0] > 80)
    assert np.abs(np.array([x.min(), y.min(), x.max(), y.max()]) - (40, 40, 200, 160)).max() <= 2
    canvas.make_unreadable((200, 50, 220, 60))
    assert (canvas.planes[0][200:240, 400:440] == 110).all()


@pytest.mark.long
def test_the_sound_of_a_clip_is_that_of_its_frames(make_video: MakeVideo, tmp_path: Path) -> None:
    silent = make_video("silent.mkv", 100, rate=25, size=SIZE)
    samples = np.zeros((1, 4 * 8000), np.int16)
    samples[0, 2 * 8000 : 2 * 8000 + 800] = 20000 * np.sin(np.arange(800))  # a beep from 2.0 to 2.1 s
    source = tmp_path / "sound.mkv"
    with av.open(str(silent)) as pictures, av.open(str(source), "w") as container:
        video_stream = container.add_stream_from_template(pictures.streams.video[0])
        audio_stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for packet in pictures.demux(video=0):
            if packet.dts is not None:
                packet.stream = video_stream
                container.mux(packet)
        sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        sound.sample_rate, sound.pts = 8000, 0
        container.mux([*audio_stream.encode(sound), *audio_stream.encode(None)])
    video = normalize(source, tmp_path / "normalized.mp4", VideoSettings())
    rows = frame_rows("r", video)
    reader = SourceFrames(
        source, VideoSettings(), video.start_time_s, rows["source_frame_index"].to_numpy(), rows["time_s"].to_numpy()
    )
    frames, output = range(40, 75), tmp_path / "clip.mp4"  # from 1.6 s
    size_px = (video.width_px, video.height_px)
    sound_frames = reader.read_sound(frames, 25)
    write_source_clip(reader.read(frames), frames, size_px, video.rate_fps, output, None, (), sound_frames)
    with av.open(str(output)) as container:
        decoded = [frame for frame in container.decode(audio=0)]
        level = np.abs(np.concatenate([frame.to_ndarray()[0] for frame in decoded]))
        start_s = float((decoded[0].pts or 0) * (decoded[0].time_base or 0))
    loud = np.flatnonzero(level > 0.1) / 48_000 + start_s
    assert loud[0] == pytest.approx(0.4, abs=0.03)
    assert loud[-1] == pytest.approx(0.5, abs=0.03)
    assert len(level) / 48_000 == pytest.approx(1.4, abs=0.06)
