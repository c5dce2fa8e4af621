"""Reads the sound of a recording's file for a clip."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream

from resources.errors import RecordingError
from resources.media.container import open_container

SOUND_RATE_HZ = 48_000
SOUND_LAYOUT, _FORMAT = "stereo", "fltp"
_MIN_GAP_S = 0.02  # shorter ones are rounding errors of timestamps


def read_sound(path: Path, start_s: float, duration_s: float) -> Iterator[AudioFrame]:
    """Read a stretch of the sound, with silence where the file has none; the first sample has the PTS 0.

    Args:
        path: The file.
        start_s: Start on the file's own clock.
        duration_s: Length of the stretch.

    Yields:
        Stereo frames of float samples at 48 kHz.

    Raises:
        RecordingError: The file has no sound, or cannot be read.
    """
    total, written = round(duration_s * SOUND_RATE_HZ), 0
    for position, samples in _read_samples(path, start_s):
        if position - written > _MIN_GAP_S * SOUND_RATE_HZ:
            silence = np.zeros((2, min(position, total) - written), np.float32)
            yield _to_frame(silence, written)
            written += silence.shape[1]
        part = samples[:, max(0, written - position) :][:, : total - written]
        if part.shape[1]:
            yield _to_frame(part, written)
            written += part.shape[1]
        if written >= total:
            return
    if written < total:
        yield _to_frame(np.zeros((2, total - written), np.float32), written)


def _read_samples(path: Path, start_s: float) -> Iterator[tuple[int, np.ndarray]]:
    """Decode the sound from a time on; yields samples of shape (2, n) with their position after that time."""
    with open_container(path) as container:
        stream = container.streams.best("audio")
        if not isinstance(stream, AudioStream):
            raise RecordingError("The file has no sound: leave out --sound.")
        container.seek(max(0, round(start_s * av.time_base)))
        resampler = AudioResampler(format=_FORMAT, layout=SOUND_LAYOUT, rate=SOUND_RATE_HZ)
        position: int | None = None
        for frame in container.decode(stream):
            if frame.pts is not None and frame.time_base is not None:
                position = round((float(frame.pts * frame.time_base) - start_s) * SOUND_RATE_HZ)
            for resampled in resampler.resample(frame):
                samples = resampled.to_ndarray()
                position = position or 0
                if position + samples.shape[1] > 0:
                    yield max(0, position), samples[:, max(0, -position) :]
                position += samples.shape[1]


def _to_frame(samples: np.ndarray, pts: int) -> AudioFrame:
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), format=_FORMAT, layout=SOUND_LAYOUT)
    frame.sample_rate, frame.pts = SOUND_RATE_HZ, pts
    return frame
