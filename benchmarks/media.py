"""Normalization: frame counts of every file, speed compared with the `ffmpeg` command line, memory.

`python -m benchmarks.media` measures these cases alone.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import click
import numpy as np

from benchmarks.inputs import draw_two_hours
from benchmarks.report import CORPUS, Case, max_case, min_ratio_case, print_table, read_peak_memory_mb
from resources.config.media_config import VideoSettings
from resources.errors import RecordingError
from resources.file_hashes import read_content_hash
from resources.media import isolation
from resources.media.container import best_stream, open_container
from resources.media.normalize import normalize
from resources.media.normalized_file import NormalizedVideo
from resources.media.probe import probe

_ENCODE = VideoSettings(when_conforming="encode")
_ROUNDS = 3
_LONG_S = 2 * 3600


def frame_count_cases(scratch: Path) -> Iterator[Case]:
    """Frames of every file of the corpus: by its header, as `ffprobe` decodes it, and as this project does."""
    if not (CORPUS / "MANIFEST.tsv").exists():
        click.echo(f"No corpus at {CORPUS}: its files are skipped.")
        return
    if not shutil.which("ffprobe"):
        click.echo("No ffprobe on this machine: the comparison of frame counts is skipped.")
        return
    files = (file for name in ("recordings", "awkward", "broken") for file in (CORPUS / name).rglob("*"))
    click.echo(f"{'file':<46}{'header':>8}{'ffprobe':>8}{'ours':>8}  normalized by / reason")
    difference_count = 0
    for file in sorted(file for file in files if file.is_file()):
        try:
            header_count = probe(file, _ENCODE).frame_count_from_header
            video = isolation.normalize_in_subprocess(file, scratch / "out.mp4", VideoSettings())
        except RecordingError as error:
            peer_count = _count_frames_with_ffprobe(file)
            click.echo(f"{file.name[:45]:<46}{'-':>8}{peer_count:>8}{0:>8}  rejected: {error}")
            difference_count += peer_count != 0
            continue
        peer_count, our_count = _count_frames_with_ffprobe(file), video.ledger.decoded_count
        corrupt = f", {video.ledger.corrupt_count} packets do not decode" if video.ledger.corrupt_count else ""
        click.echo(
            f"{file.name[:45]:<46}{header_count or '-':>8}{peer_count:>8}{our_count:>8}  {video.normalized_by}{corrupt}"
        )
        difference_count += peer_count != our_count
        if file.name == "var_fps.mp4":
            yield max_case("var_fps.mp4: largest error of time_s", _max_time_error(file, video), "frames", 0.5)
    yield max_case("files whose frame count differs from that of ffprobe", difference_count, "files", 0)


def _count_frames_with_ffprobe(file: Path) -> int:
    """Count the frames of the selected stream by an independent full decode."""
    try:
        with open_container(file) as container:
            index = best_stream(container).index
    except RecordingError:
        return 0
    entries = ["-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"]
    command = ["ffprobe", "-v", "quiet", "-select_streams", str(index), *entries, str(file)]
    values = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return int(values[0].strip(",")) if values and values[0].strip(",").isdigit() else 0


def _max_time_error(file: Path, video: NormalizedVideo) -> float:
    """Largest distance between time_s and the PTS that `ffprobe` prints, in source frames."""
    entries = ["-show_entries", "frame=best_effort_timestamp_time", "-of", "csv=p=0"]
    command = ["ffprobe", "-v", "quiet", "-select_streams", "v:0", *entries, str(file)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    pts_s = np.array([float(line.strip(",")) for line in lines])
    is_original = ~np.array(video.frames.is_duplicated, bool)
    source_index = np.array(video.frames.source_frame_index)[is_original]
    error_s = np.abs(np.array(video.frames.time_s)[is_original] - (pts_s[source_index] - pts_s[0])).max()
    return float(error_s * float(video.source_rate_fps))


def speed_cases(recording: Path, scratch: Path) -> Iterator[Case]:
    """Transcoding and remuxing, compared with `ffmpeg` doing the same with the same settings."""
    output = scratch / "out.mp4"
    video = normalize(recording, output, _ENCODE)  # warm-up
    frame_count, name = len(video.frames), recording.name
    encode_fps = remux_fps = peer_fps = copy_fps = 0.0
    for _ in range(_ROUNDS):  # in turns, so that other load on the machine affects all alike
        encode_fps = max(encode_fps, frame_count / _elapsed_s(lambda: normalize(recording, output, _ENCODE)))
        remux_fps = max(remux_fps, frame_count / _elapsed_s(lambda: normalize(recording, output, VideoSettings())))
        if shutil.which("ffmpeg"):
            peer_fps = max(peer_fps, frame_count / _elapsed_s(lambda: _run_ffmpeg(recording, output, video)))
            copy_fps = max(copy_fps, frame_count / _elapsed_s(lambda: _run_ffmpeg(recording, output, None)))
    if peer_fps:
        yield min_ratio_case(f"{name}: encoding, measures included, vs ffmpeg", encode_fps, peer_fps, "frames/s", 0.9)
        yield min_ratio_case(
            f"{name}: ffmpeg -c copy vs encoding, no frame decoded", copy_fps, encode_fps, "frames/s", 20
        )
    else:
        click.echo("No ffmpeg on this machine: the comparison with it is skipped.")
    if normalize(recording, output, VideoSettings()).normalized_by == "remux":
        yield min_ratio_case(f"{name}: remux, every frame decoded, vs encoding", remux_fps, encode_fps, "frames/s", 20)


def _run_ffmpeg(recording: Path, output: Path, video: NormalizedVideo | None) -> None:
    """Convert a recording with ffmpeg as this project does; without a video, only copy the packets."""
    options = ["-c", "copy"]
    if video:
        size = f"{video.width_px}:{video.height_px}"
        filters = f"scale={size}:flags=bicubic:out_color_matrix=bt709:out_range=tv,format=yuv420p,setsar=1"
        keyframe_interval = str(int(2 * video.rate_fps))
        encoder = ["-c:v", "libx264", "-preset", "superfast", "-crf", str(_ENCODE.crf), "-g", keyframe_interval]
        options = ["-vf", filters, *encoder, "-r", str(video.rate_fps)]
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(recording), "-an", *options, "-movflags", "+faststart"]
    subprocess.run([*command, str(output)], check=True)


def hash_cases(scratch: Path) -> Iterator[Case]:
    """Hashing two hours of 720p whole, as a share of the ingest that remuxes them."""
    recording, output = draw_two_hours(scratch), scratch / "out.mp4"
    hash_s = _elapsed_s(lambda: read_content_hash(recording))
    normalize_s = _elapsed_s(lambda: normalize(recording, output, VideoSettings()))
    name = f"hashing {recording.stat().st_size / 1e6:.0f} MB"
    click.echo(f"{name}: {hash_s:.2f} s; normalizing: {normalize_s:.1f} s")
    yield max_case(f"{name}, 2 h of 720p, in ingest", hash_s / (hash_s + normalize_s), "share", 0.05)


def memory_cases(scratch: Path) -> Iterator[Case]:
    """Peak memory of the media process over a bare interpreter: large frames, and two hours of footage."""
    for rows, size_px in ((1080, (1920, 1080)), (2160, (3840, 2160))):
        video = _draw_noise(scratch / f"{rows}.mp4", size_px, 90)
        yield max_case(f"peak memory encoding {rows} rows", _peak_memory_mb(video, scratch, _ENCODE), "MB", 600)
    clip = _draw_noise(scratch / "clip.mp4", (320, 180), 250)
    two_hours = _repeat_clip(clip, scratch / "hours.mp4", _LONG_S)
    minute = _repeat_clip(clip, scratch / "minute.mp4", 60)
    for name, settings in (("remuxing", VideoSettings()), ("encoding", _ENCODE)):
        long_mb, short_mb = (_peak_memory_mb(video, scratch, settings) for video in (two_hours, minute))
        yield max_case(f"peak memory {name} 2 h", long_mb, "MB", 600)
        yield max_case(f"growth of it from 1 min to 2 h, {name}", long_mb - short_mb, "MB", 100)


def _peak_memory_mb(recording: Path, scratch: Path, settings: VideoSettings) -> float:
    isolation._process.stop()
    pid = 0

    def store_pid(*_: object) -> None:
        nonlocal pid
        assert isolation._process._process is not None
        pid = isolation._process._process.pid

    isolation.normalize_in_subprocess(recording, scratch / "out.mp4", settings, store_pid)
    code = "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    bare_interpreter = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return read_peak_memory_mb(pid) - int(bare_interpreter.stdout) / 1e3


def _draw_noise(path: Path, size_px: tuple[int, int], frame_count: int) -> Path:
    width_px, height_px = size_px
    noise = np.random.default_rng(0).integers(0, 255, (height_px * 2, width_px * 2, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width_px, height_px, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "30"}
        for index in range(frame_count):
            image = np.ascontiguousarray(noise[index : index + height_px, index : index + width_px] // 4)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _repeat_clip(clip: Path, path: Path, duration_s: float) -> Path:
    """Write a recording that repeats a clip, packet by packet."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        target_stream = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        time_base = Fraction(stream.time_base or 1)
        clip_duration = round(Fraction(len(packets), 25) / time_base)
        contents = [(bytes(packet), packet.pts or 0, packet.dts or 0, packet.is_keyframe) for packet in packets]
        for repetition in range(round(duration_s * 25 / len(packets))):
            offset = repetition * clip_duration
            for content, pts, dts, is_keyframe in contents:
                packet = av.Packet(content)
                packet.pts, packet.dts, packet.time_base = pts + offset, dts + offset, time_base
                packet.is_keyframe, packet.stream = is_keyframe, target_stream
                target.mux(packet)
    return path


def _elapsed_s(function: Callable[[], object]) -> float:
    started_s = time.monotonic()
    function()
    return time.monotonic() - started_s


def media_cases(recording: Path, scratch: Path) -> Iterator[Case]:
    """All cases of normalization."""
    yield from frame_count_cases(scratch)
    yield from speed_cases(recording, scratch)
    yield from hash_cases(scratch)
    yield from memory_cases(scratch)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print_table(list(media_cases(CORPUS / "recordings" / "traffic_camera.mp4", Path(folder))))
