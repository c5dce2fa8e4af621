"""Cuts parts of single frames out of the file of a recording, at full resolution.

A frame is found by its PTS after a seek, wherever that is cheaper than to decode all frames between two. In files
without an index, or whose timestamps jump, frames are counted from the start, as normalization counted them.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from resources.config.media_config import VideoSettings
from resources.errors import RecordingError
from resources.media.container import best_stream, configure_decoder, open_container
from resources.media.frame_converter import FrameConverter
from resources.media.frame_reader import MIN_SKIPPED_FRAMES, split_at_seeks
from resources.media.progress import ReportProgress
from resources.media.source_decoder import RecordingDecoder
from resources.media.timeline import Timeline
from resources.media.upright_filter import UprightFilter

_FIRST_STEP_BACK_S = 1.0
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
    cutter = _Cutter(source, settings, jpeg_quality)
    results: dict[int, list[SourceCut]] = {}
    with open_container(path) as container:
        stream = best_stream(container)
        configure_decoder(stream, settings.max_pixels, thread_count)
        finder = _FrameFinder(container, stream, source.start_time_s)
        for parts in finder.groups(cuts):
            for number, picture in _filter_frames(finder.find(parts), cutter, stream):
                results[number] = cutter.cut(picture, parts[number])
                progress(len(results), len(cuts))
    with open_container(path) as container:  # the rest is counted from the start
        rest = {cut.source_frame_index: cut for cut in cuts if cut.source_frame_index not in results}
        stream = best_stream(container)
        configure_decoder(stream, settings.max_pixels, thread_count)
        for number, picture in _filter_frames(_count_frames(container, stream, rest), cutter, stream):
            results[number] = cutter.cut(picture, rest[number])
            progress(len(results), len(cuts))
    missing = [cut.source_frame_index for cut in cuts if cut.source_frame_index not in results]
    if missing:
        raise RecordingError(
            f"The file lacks frames that have crops (first: frame {missing[0]}): materialize normalized_video again."
        )
    return [results[cut.source_frame_index] for cut in cuts]


_Numbered = Iterator[tuple[int | None, VideoFrame]]
"""Decoded frames, each with its source frame index if it is cut."""


class _FrameFinder:
    """Finds frames of a file by their PTS, with seeks."""

    def __init__(self, container: InputContainer, stream: VideoStream, start_time_s: float | None) -> None:
        self._container, self._stream, self._start_time_s = container, stream, start_time_s
        self._time_base = Fraction(stream.time_base or 1)
        if container.format.name.startswith("matroska"):
            container.seek(stream.start_time or 0, stream=stream)  # FFmpeg reads its index at the first seek
        self._keyframes = sorted(entry.timestamp for entry in stream.index_entries if entry.is_keyframe)

    def groups(self, cuts: Sequence[FrameCuts]) -> Iterator[Mapping[int, FrameCuts]]:
        """Split frames where a seek costs less than to decode what is between two; none if frames must be counted."""
        if self._start_time_s is None or not self._keyframes:
            return
        rate_fps = self._stream.average_rate or _USUAL_RATE_FPS
        min_skipped = math.ceil(MIN_SKIPPED_FRAMES / rate_fps / self._time_base)
        by_pts = {self._pts(cut): cut for cut in cuts}
        for group in split_at_seeks(sorted(by_pts), self._keyframes, min_skipped):
            yield {by_pts[pts].source_frame_index: by_pts[pts] for pts in group}

    def find(self, cuts: Mapping[int, FrameCuts]) -> _Numbered:
        """Decode from the keyframe before the first of some frames to the last; those that are not found are left out.

        Args:
            cuts: Frames of one group by source frame index.
        """
        remaining = {self._pts(cut): number for number, cut in cuts.items()}
        first_pts, last_pts = min(remaining), max(remaining)
        step_back_s, start_pts = 0.0, first_pts
        while True:
            try:
                self._container.seek(start_pts, stream=self._stream)
            except av.error.FFmpegError:
                return  # the frames are counted
            frames = _decode_frames(self._container, self._stream)
            first = next(frames, None)
            if first is not None and first.pts is not None and first.pts <= first_pts:
                break
            if start_pts < self._keyframes[0]:
                return  # not even from the first keyframe: the frames are counted
            # With intra refresh or an open GOP, a decoder that starts at a keyframe omits some frames.
            step_back_s = 4 * step_back_s or _FIRST_STEP_BACK_S
            start_pts = first_pts - round(step_back_s / self._time_base)
        frame: VideoFrame | None = first
        while frame is not None and (frame.pts is None or frame.pts <= last_pts):
            yield remaining.get(frame.pts) if frame.pts is not None else None, frame
            frame = next(frames, None)
        if frame is not None:
            yield None, frame  # deinterlacing needs the frame after the last one, too

    def _pts(self, cut: FrameCuts) -> int:
        assert self._start_time_s is not None
        return round((self._start_time_s + cut.time_s) / self._time_base)


def _count_frames(container: InputContainer, stream: VideoStream, cuts: Mapping[int, FrameCuts]) -> _Numbered:
    """Decode from the start to the frame after the last of some frames, which have their source frame index."""
    last = max(cuts, default=-2)
    for index, frame in enumerate(_decode_frames(container, stream)):
        if index > last + 1:
            return
        yield index if index in cuts else None, frame


def _decode_frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Decode frames in presentation order, as normalization decodes them: what is damaged is left out."""
    decoder = RecordingDecoder(container, stream, Timeline(0, _USUAL_RATE_FPS, has_timestamps=False))
    for _, frames in decoder.packets():
        yield from frames


def _filter_frames(frames: _Numbered, cutter: "_Cutter", stream: VideoStream) -> Iterator[tuple[int, VideoFrame]]:
    """Filter the frames that are cut; of interlaced video all, because deinterlacing needs the frames around one."""
    inside = deque[int | None]()

    def take(filtered: Iterator[VideoFrame]) -> Iterator[tuple[int, VideoFrame]]:
        for picture in filtered:
            number = inside.popleft()
            if number is not None:
                yield number, picture

    for number, frame in frames:
        if number is not None or frame.interlaced_frame:
            inside.append(number)
            yield from take(cutter.filter_of(frame, stream).push(frame))
    if cutter.filter is not None:
        yield from take(cutter.filter.finish())


class _Cutter:
    """Filters frames as normalization does, at full size, and cuts parts out of them."""

    def __init__(self, source: CutSource, settings: VideoSettings, jpeg_quality: int) -> None:
        self._source, self._jpeg_quality = source, jpeg_quality
        self._settings = settings.model_copy(update={"max_height_px": None, "region": source.region})
        self._converter = FrameConverter()
        self.filter: UprightFilter | None = None

    def filter_of(self, frame: VideoFrame, stream: VideoStream) -> UprightFilter:
        """The filter, which the first frame determines."""
        self.filter = self.filter or UprightFilter(frame, stream, self._settings)
        return self.filter

    def cut(self, picture: VideoFrame, cuts: FrameCuts) -> list[SourceCut]:
        """Cut the parts of one filtered frame, and encode them.

        Raises:
            RecordingError: A part cannot be encoded.
        """
        import cv2

        image = self._converter.to_bgr(picture)
        height_px, width_px = image.shape[:2]
        scale = np.array([width_px / self._source.width_px, height_px / self._source.height_px])
        parts = []
        for left, top, right, bottom in np.round(cuts.edges_px * np.tile(scale, 2)).astype(int):
            left, top = min(left, width_px - 1), min(top, height_px - 1)
            part = image[top : max(top + 1, bottom), left : max(left + 1, right)]
            is_encoded, jpeg = cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, self._jpeg_quality])
            if not is_encoded:
                raise RecordingError(f"The crop of source frame {cuts.source_frame_index} cannot be encoded.")
            parts.append(SourceCut(jpeg.tobytes(), part.shape[1], part.shape[0], float(np.sqrt(scale.prod()))))
        return parts
