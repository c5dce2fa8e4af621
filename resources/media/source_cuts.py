"""Cuts parts of single frames out of the file of a recording, at full resolution.

Frames are found by seeks, wherever that is cheaper than to decode all frames between two; those of a file without an
index, or whose timestamps jump, are counted.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from resources.config.media_config import VideoSettings
from resources.errors import RecordingError
from resources.media.container import best_stream, configure_decoder, open_container
from resources.media.frame_converter import FrameConverter
from resources.media.frame_reader import MIN_SKIPPED_FRAMES, split_at_seeks
from resources.media.progress import ReportProgress
from resources.media.source_finder import NumberedFrames, SourceFilter, count_frames, find_frames, pts_of

_USUAL_RATE_FPS = Fraction(25)  # only decides what a seek costs


@dataclass(frozen=True)
class FrameCuts:
    """The parts that are cut out of one source frame.

    Attributes:
        source_frame_index: Index of the decoded frame, in presentation order.
        time_s: Its PTS minus the PTS of the first decoded frame.
        edges_px: Left, top, right and bottom of each part in pixels of the normalized video, int of shape (n, 4).
    """

    source_frame_index: int
    time_s: float
    edges_px: np.ndarray


@dataclass(frozen=True)
class CutSource:
    """What normalization has found out about the file.

    Attributes:
        start_time_s: PTS of the first decoded frame; None without timestamps.
        region: Part of the upright frame that the normalized video shows: left, top, right, bottom as shares.
        width_px: Width of the normalized video.
        height_px: Height of the normalized video.
    """

    start_time_s: float | None
    region: tuple[float, float, float, float]
    width_px: int
    height_px: int


@dataclass(frozen=True)
class SourceCut:
    """A part of a source frame.

    Attributes:
        jpeg: The picture as JPEG.
        width_px: Its width.
        height_px: Its height.
        scale: Its pixels per pixel of the normalized video.
    """

    jpeg: bytes
    width_px: int
    height_px: int
    scale: float


def cut_source(
    path: Path,
    source: CutSource,
    cuts: Sequence[FrameCuts],
    settings: VideoSettings,
    jpeg_quality: int,
    progress: ReportProgress,
    thread_count: int | None = None,
) -> list[list[SourceCut]]:
    """Cut parts of frames out of the file of a recording; in memory are one frame and the JPEGs.

    Args:
        path: The file.
        source: What normalization has found out about it.
        cuts: The parts, by ascending source frame index, each frame once.
        settings: Limit of the frame size, and colour.
        jpeg_quality: JPEG quality, 1 to 100.
        progress: Takes the number of frames.
        thread_count: Decoding threads; None means one per core, up to 8.

    Returns:
        The parts of each frame.

    Raises:
        RejectedRecordingError: The file is not a video.
        RecordingError: The file cannot be read, or lacks one of the frames.
    """
    full_size = settings.model_copy(update={"max_height_px": None, "region": source.region})
    source_filter, converter = SourceFilter(full_size), FrameConverter()
    results: dict[int, list[SourceCut]] = {}

    def cut(frames: NumberedFrames, stream: VideoStream, parts: Mapping[int, FrameCuts]) -> None:
        for number, picture in source_filter.pick(frames, stream):
            results[number] = _cut(converter.to_bgr(picture), source, parts[number], jpeg_quality)
            progress(len(results), len(cuts))

    for is_counted in (False, True):  # what is not found by seeks is counted from the start
        with open_container(path) as container:
            stream = best_stream(container)
            configure_decoder(stream, settings.max_pixels, thread_count)
            if is_counted:
                rest = {part.source_frame_index: part for part in cuts if part.source_frame_index not in results}
                cut(count_frames(container, stream, rest), stream, rest)
            elif source.start_time_s is not None:
                for parts in _split_at_seeks(container, stream, source.start_time_s, cuts):
                    times_s = {number: part.time_s for number, part in parts.items()}
                    cut(find_frames(container, stream, source.start_time_s, times_s), stream, parts)
    missing = [cut.source_frame_index for cut in cuts if cut.source_frame_index not in results]
    if missing:
        raise RecordingError(
            f"The file lacks frames that have crops (first: frame {missing[0]}): materialize normalized_video again."
        )
    return [results[cut.source_frame_index] for cut in cuts]


def _split_at_seeks(
    container: InputContainer, stream: VideoStream, start_time_s: float, cuts: Sequence[FrameCuts]
) -> Iterator[Mapping[int, FrameCuts]]:
    """Split frames where a seek costs less than to decode what is between two; none if the file has no index."""
    if container.format.name.startswith("matroska"):
        container.seek(stream.start_time or 0, stream=stream)  # FFmpeg reads its index at the first seek
    keyframes = sorted(entry.timestamp for entry in stream.index_entries if entry.is_keyframe)
    if not keyframes:
        return
    rate_fps = stream.average_rate or _USUAL_RATE_FPS
    min_skipped = math.ceil(MIN_SKIPPED_FRAMES / rate_fps / Fraction(stream.time_base or 1))
    by_pts = {pts_of(stream, start_time_s, cut.time_s): cut for cut in cuts}
    for group in split_at_seeks(sorted(by_pts), keyframes, min_skipped):
        yield {by_pts[pts].source_frame_index: by_pts[pts] for pts in group}


def _cut(image: np.ndarray, source: CutSource, cuts: FrameCuts, jpeg_quality: int) -> list[SourceCut]:
    """Cut the parts of one filtered frame, and encode them.

    Raises:
        RecordingError: A part cannot be encoded.
    """
    import cv2

    height_px, width_px = image.shape[:2]
    scale = np.array([width_px / source.width_px, height_px / source.height_px])
    parts = []
    for left, top, right, bottom in np.round(cuts.edges_px * np.tile(scale, 2)).astype(int):
        left, top = min(left, width_px - 1), min(top, height_px - 1)
        part = image[top : max(top + 1, bottom), left : max(left + 1, right)]
        is_encoded, jpeg = cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
        if not is_encoded:
            raise RecordingError(f"The crop of source frame {cuts.source_frame_index} cannot be encoded.")
        parts.append(SourceCut(jpeg.tobytes(), part.shape[1], part.shape[0], float(np.sqrt(scale.prod()))))
    return parts
