"""Normalization: an account of every file, speed beside the `ffmpeg` command line, memory.

`python -m benchmarks.media` runs these alone.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import click
import numpy as np

from benchmarks.report import CORPUS, Case, alone, compared, peak_memory_mb, show
from resources.errors import RecordingError
from resources.media import isolation
from resources.media.normalizing import NormalizedVideo, normalize
from resources.media.opening import best_stream, opened
from resources.media.probing import probe
from resources.settings import VideoSettings

_ENCODE = VideoSettings(when_conforming="encode")
_RUNS = 3
_LONG_S = 2 * 3600


def files(scratch: Path) -> Iterator[Case]:
    """Frames of every file of the corpus: as its header claims, as `ffprobe` decodes them, and as we do."""
    if not (CORPUS / "MANIFEST.tsv").exists():
        click.echo(f"No corpus at {CORPUS}: its files are left out.")
        return
    if not shutil.which("ffprobe"):
        click.echo("No ffprobe on this machine: the comparison of frame counts is left out.")
        return
    found = (file for name in ("recordings", "awkward", "broken") for file in (CORPUS / name).rglob("*"))
    click.echo(f"{'file':<46}{'header':>8}{'ffprobe':>8}{'ours':>8}  made by / reason")
    unlike = 0
    for file in sorted(f for f in found if f.is_file()):
        try:
            claimed = probe(file, _ENCODE).frame_count_from_header
            video = isolation.normalize_isolated(file, scratch / "out.mp4", VideoSettings())
        except RecordingError as error:
            peer = _ffprobe_frames(file)
            click.echo(f"{file.name[:45]:<46}{'-':>8}{peer:>8}{0:>8}  refused: {error}")
            unlike += peer != 0
            continue
        peer, ours = _ffprobe_frames(file), video.ledger.decoded_count
        lost = f", {video.ledger.corrupt_count} packets do not decode" if video.ledger.corrupt_count else ""
        click.echo(f"{file.name[:45]:<46}{claimed or '-':>8}{peer:>8}{ours:>8}  {video.made_by}{lost}")
        unlike += peer != ours
        if file.name == "var_fps.mp4":
            yield alone("var_fps.mp4: largest error of time_s", _largest_error(file, video), "frames", at_most=0.5)
    yield alone("files whose frame count is not that of ffprobe", unlike, "files", at_most=0)


def _ffprobe_frames(file: Path) -> int:
    """Frames that an independent full decode of the stream that we take finds."""
    try:
        with opened(file) as container:
            index = best_stream(container).index
    except RecordingError:
        return 0
    entries = ["-count_frames", "-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"]
    command = ["ffprobe", "-v", "quiet", "-select_streams", str(index), *entries, str(file)]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return int(told[0].strip(",")) if told and told[0].strip(",").isdigit() else 0


def _largest_error(file: Path, video: NormalizedVideo) -> float:
    """Largest distance between time_s and the pts that `ffprobe` prints, in source frames."""
    entries = ["-show_entries", "frame=best_effort_timestamp_time", "-of", "csv=p=0"]
    command = ["ffprobe", "-v", "quiet", "-select_streams", "v:0", *entries, str(file)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    pts_s = np.array([float(line.strip(",")) for line in told])
    is_own = ~np.array(video.frames.is_duplicated, bool)
    source = np.array(video.frames.source_frame_index)[is_own]
    error_s = np.abs(np.array(video.frames.time_s)[is_own] - (pts_s[source] - pts_s[0])).max()
    return float(error_s * float(video.source_rate_fps))


def speed(recording: Path, scratch: Path) -> Iterator[Case]:
    """Encoding and taking over, beside `ffmpeg` doing the same with the same settings."""
    output = scratch / "out.mp4"
    video = normalize(recording, output, _ENCODE)  # warm-up
    frame_count, name = len(video.frames), recording.name
    encode_fps = remux_fps = peer_fps = copy_fps = 0.0
    for _ in range(_RUNS):  # in turns, so that what else the machine does falls on all alike
        encode_fps = max(encode_fps, frame_count / _seconds(lambda: normalize(recording, output, _ENCODE)))
        remux_fps = max(remux_fps, frame_count / _seconds(lambda: normalize(recording, output, VideoSettings())))
        if shutil.which("ffmpeg"):
            peer_fps = max(peer_fps, frame_count / _seconds(lambda: _ffmpeg(recording, output, video)))
            copy_fps = max(copy_fps, frame_count / _seconds(lambda: _ffmpeg(recording, output, None)))
    if peer_fps:
        yield compared(f"{name}: encoding, measures included, vs ffmpeg", encode_fps, peer_fps, "frames/s", 0.9)
        yield compared(f"{name}: ffmpeg -c copy vs encoding, no frame decoded", copy_fps, encode_fps, "frames/s", 20)
    else:
        click.echo("No ffmpeg on this machine: the comparison with it is left out.")
    if normalize(recording, output, VideoSettings()).made_by == "remux":
        yield compared(f"{name}: remux, every frame decoded, vs encoding", remux_fps, encode_fps, "frames/s", 20)


def _ffmpeg(recording: Path, output: Path, video: NormalizedVideo | None) -> None:
    """The same conversion by ffmpeg; without a video, a mere copy of the packets."""
    chosen = ["-c", "copy"]
    if video:
        size = f"{video.width_px}:{video.height_px}"
        filters = f"scale={size}:flags=bicubic:out_color_matrix=bt709:out_range=tv,format=yuv420p,setsar=1"
        keyframes = str(int(2 * video.rate_fps))
        encoder = ["-c:v", "libx264", "-preset", "superfast", "-crf", str(_ENCODE.crf), "-g", keyframes]
        chosen = ["-vf", filters, *encoder, "-r", str(video.rate_fps)]
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(recording), "-an", *chosen, "-movflags", "+faststart"]
    subprocess.run([*command, str(output)], check=True)


def memory(scratch: Path) -> Iterator[Case]:
    """Peak memory of the media process over a bare interpreter: large pictures, and two hours of footage."""
    for rows, size in ((1080, (1920, 1080)), (2160, (3840, 2160))):
        drawn = _drawn(scratch / f"{rows}.mp4", size, 90)
        yield alone(f"peak memory encoding {rows} rows", _peak_mb(drawn, scratch, _ENCODE), "MB", at_most=600)
    hours = _repeated(_drawn(scratch / "clip.mp4", (320, 180), 250), scratch / "hours.mp4", _LONG_S)
    minute = _repeated(scratch / "clip.mp4", scratch / "minute.mp4", 60)
    for name, settings in (("taking over", VideoSettings()), ("encoding", _ENCODE)):
        long_mb, short_mb = _peak_mb(hours, scratch, settings), _peak_mb(minute, scratch, settings)
        yield alone(f"peak memory {name} 2 h", long_mb, "MB", at_most=600)
        yield alone(f"growth of it from 1 min to 2 h, {name}", long_mb - short_mb, "MB", at_most=100)


def _peak_mb(recording: Path, scratch: Path, settings: VideoSettings) -> float:
    isolation._process.stop()
    pid = 0

    def look(*_: object) -> None:
        nonlocal pid
        assert isolation._process._process is not None
        pid = isolation._process._process.pid

    isolation.normalize_isolated(recording, scratch / "out.mp4", settings, look)
    code = "print(next(l.split()[1] for l in open('/proc/self/status') if l.startswith('VmHWM')))"
    bare = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return peak_memory_mb(pid) - int(bare.stdout) / 1e3


def _drawn(path: Path, size: tuple[int, int], frame_count: int) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (size[1] * 2, size[0] * 2, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "30"}
        for k in range(frame_count):
            picture = np.ascontiguousarray(noise[k : k + size[1], k : k + size[0]] // 4)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _repeated(clip: Path, path: Path, duration_s: float) -> Path:
    """A recording that shows a clip over and over, packet by packet."""
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.size]
        time_base = Fraction(stream.time_base or 1)
        length = round(Fraction(len(packets), 25) / time_base)
        contents = [(bytes(packet), packet.pts or 0, packet.dts or 0, packet.is_keyframe) for packet in packets]
        for lap in range(round(duration_s * 25 / len(packets))):
            for content, pts, dts, is_keyframe in contents:
                packet = av.Packet(content)
                packet.pts, packet.dts, packet.time_base = pts + lap * length, dts + lap * length, time_base
                packet.is_keyframe, packet.stream = is_keyframe, copied
                target.mux(packet)
    return path


def _seconds(work: object) -> float:
    assert callable(work)
    started = time.monotonic()
    work()
    return time.monotonic() - started


def cases(recording: Path, scratch: Path) -> Iterator[Case]:
    """All cases of normalization."""
    yield from files(scratch)
    yield from speed(recording, scratch)
    yield from memory(scratch)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        show(list(cases(CORPUS / "recordings" / "traffic_camera.mp4", Path(folder))))
