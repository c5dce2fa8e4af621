"""tracks: one row per track (recording_id, track_id); track_boxes: one row per track and frame.

Tracks are computed from the stored detections that count alone: no pixels are read and no model runs. The boxes of
neighbouring frames are associated (`resources/tracking/association.py`), the parts of each track are linked over the
whole recording (`track_linking.py`), tracks that are noise are dropped, and the boxes of the others are smoothed and
estimated in gaps (`track_smoothing.py`).
"""

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.dataset import field

from cv_assets.detection_filter import DetectionFilter
from cv_assets.media_status import read_normalized_row
from cv_assets.recording_inference import analysed_frame_positions
from cv_assets.stage_asset import ANALYSIS, StageRun, stage_asset
from cv_assets.stage_metadata import Metadata, class_count_metadata, count_metadata
from resources.config.settings import Settings
from resources.config.tracking_config import TrackSettings
from resources.media.progress import ReportProgress
from resources.schema.model_tables import DETECTIONS
from resources.schema.recording_tables import FRAMES
from resources.schema.track_tables import TRACK_BOXES, TRACKS
from resources.storage.arrow_sql import select
from resources.storage.checkpoints import Checkpoints
from resources.storage.delta_store import Store
from resources.tracking.association import Association
from resources.tracking.detection_source import STRETCH_ROWS, DetectionSource
from resources.tracking.track_parts import TrackedBoxes, TrackParts, UsualOdds
from resources.tracking.track_smoothing import gap_rows, smooth_boxes, track_starts
from resources.votes import UNSURE, is_decided

CAMERA_COLUMNS = ("camera_x_px", "camera_y_px")
_CORNERS = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")
_DETECTION_COLUMNS = ("recording_id", "frame_index", "detection_index", "time_s", "class_id", "class_name",
                      "confidence", *_CORNERS)  # fmt: skip
_FRAME_ORDER = [("frame_index", "ascending"), ("detection_index", "ascending")]
_LITTLE_READAHEAD: dict[str, Any] = {"batch_readahead": 1, "fragment_readahead": 1, "use_threads": False}
_DOUBTFUL_BELOW = 0.8  # the description of the column is_doubtful states it, too
_MAX_GAP_STD_SIZES = 0.25  # boxes in gaps are left out where the error of their position is probably larger

# Of each stretch of a recording: what its boxes add to each track.
_STRETCH_SQL = """
SELECT track_id, any_value(recording_id) AS recording_id, any_value(class_id) AS class_id,
    any_value(class_name) AS class_name, min(time_s) AS first_s, max(time_s) AS last_s,
    min(frame_index) AS first_frame_index, max(frame_index) AS last_frame_index,
    count(confidence) AS box_count, sum(confidence) AS confidence_sum, sum(step_px) AS path_px,
    arg_min((x_min_px + x_max_px) / 2, frame_index) AS first_x_px,
    arg_min((y_min_px + y_max_px) / 2, frame_index) AS first_y_px,
    arg_max((x_min_px + x_max_px) / 2, frame_index) AS last_x_px,
    arg_max((y_min_px + y_max_px) / 2, frame_index) AS last_y_px
FROM boxes GROUP BY track_id
"""

_TRACKS_SQL = """
SELECT any_value(recording_id) AS recording_id, track_id, any_value(class_id) AS class_id,
    any_value(class_name) AS class_name, min(first_s) AS start_s, max(last_s) + 1 / $rate AS end_s,
    max(last_s) + 1 / $rate - min(first_s) AS duration_s, min(first_frame_index) AS first_frame_index,
    max(last_frame_index) AS last_frame_index, sum(box_count)::INTEGER AS box_count,
    sum(confidence_sum) / sum(box_count) AS mean_confidence, sum(stretches.path_px) AS path_px,
    sum(stretches.path_px) / greatest(max(last_s) - min(first_s), 1 / $rate) AS mean_speed_px_s,
    arg_min(first_x_px, first_frame_index) AS first_x_px, arg_min(first_y_px, first_frame_index) AS first_y_px,
    arg_max(last_x_px, last_frame_index) AS last_x_px, arg_max(last_y_px, last_frame_index) AS last_y_px,
    any_value(links.link_confidence) AS link_confidence, any_value(links.link_confidence) < $doubtful AS is_doubtful,
    any_value(class_shares.class_share) AS class_share
FROM stretches JOIN class_shares USING (track_id) LEFT JOIN links USING (track_id)
GROUP BY track_id ORDER BY track_id
"""


class RecordingTracks:
    """The tracks of one recording, computed stretch by stretch.

    Args:
        source: The detections.
        settings: Method and thresholds.
        track_id: The track of each detection by association alone, 0 for none; None associates them.
        camera_px: See `Association`.
    """

    def __init__(
        self,
        source: DetectionSource,
        settings: TrackSettings,
        track_id: np.ndarray | None = None,
        camera_px: np.ndarray | None = None,
    ) -> None:
        self._source = source
        # A stretch is smoothed and linked together with the rows around it, as far as a track may have no box.
        margin_s = max(settings.link_s, settings.lost_s) + 1 + 5 * source.interval_s
        self._margin_frames = round(margin_s * source.rate_fps)
        self._known_camera_px = camera_px
        self._camera_px = np.zeros((len(source.frame_time_s), 2)) if camera_px is None else camera_px
        usual_odds = UsualOdds()
        self._part = self._associate(settings, track_id, usual_odds)
        self._class_names: dict[int, str] = {}
        parts = TrackParts(int(self._part.max(initial=0)), usual_odds, source.frame_span)
        for first_frame, end_frame in source.stretches():
            rows, boxes = self._read_with_margin(first_frame, end_frame)
            parts.add(boxes, first_frame, end_frame)
            class_ids, class_rows = np.unique(boxes.class_id, return_index=True)
            self._class_names |= zip(class_ids.tolist(), rows["class_name"].take(class_rows).to_pylist(), strict=True)
        self._linked = parts.link(source.rate_fps, settings)
        self._sums: list[pa.Table] = []

    def _associate(self, settings: TrackSettings, track_id: np.ndarray | None, usual_odds: UsualOdds) -> np.ndarray:
        association = Association(settings, self._source.rate_fps, self._source.interval_s, self._known_camera_px)
        parts = [np.empty(0, np.int32)]
        for first_frame, end_frame in self._source.stretches():
            rows = self._source.read(first_frame, end_frame)
            frame_index, time_s, confidence, class_id = _columns(
                rows, "frame_index", "time_s", "confidence", "class_id"
            )
            if track_id is None:
                part = association.assign(frame_index, time_s, corners(rows), confidence, class_id, end_frame)
            else:
                part = track_id[slice(*self._source.first_row[[first_frame, end_frame]])]
            usual_odds.add(confidence[part > 0], class_id[part > 0])
            parts.append(part)
        if track_id is None:
            self._camera_px = association.camera_px
        return np.concatenate(parts)

    def _read_with_margin(self, first_frame: int, end_frame: int) -> tuple[pa.Table, TrackedBoxes]:
        """The detections of a stretch and of the frames around it, as stored, and without the motion of the camera."""
        begin = max(first_frame - self._margin_frames, 0)
        end = min(end_frame + self._margin_frames, len(self._source.frame_time_s))
        rows = self._source.read(begin, end)
        frame_index, time_s, confidence, class_id = _columns(rows, "frame_index", "time_s", "confidence", "class_id")
        xyxy = corners(rows) - np.tile(self._camera_px[frame_index], (1, 2))
        part = self._part[slice(*self._source.first_row[[begin, end]])]
        return rows, TrackedBoxes(part, frame_index, time_s, xyxy, confidence, class_id)

    @property
    def track_id(self) -> np.ndarray:
        """Track of each detection, from 1; 0 for detections without a track."""
        track_id: np.ndarray = self._linked.track_of_part[self._part]
        return track_id

    def boxes(self) -> Iterator[pa.Table]:
        """Rows of `track_boxes`, one table per stretch, sorted by track_id and frame_index."""
        self._sums = []
        for first_frame, end_frame in self._source.stretches():
            rows = self._boxes_of_stretch(first_frame, end_frame)
            self._sums.append(select(_STRETCH_SQL, {"boxes": rows}))
            yield rows.select(TRACK_BOXES.arrow_schema.names).cast(TRACK_BOXES.arrow_schema)

    def _boxes_of_stretch(self, first_frame: int, end_frame: int) -> pa.Table:
        rows, boxes = self._read_with_margin(first_frame, end_frame)
        track_id = self._linked.track_of_part[boxes.part]
        order = np.flatnonzero(track_id)
        order = order[np.lexsort((boxes.frame_index[order], track_id[order]))]
        boxes, track_id = boxes.select(order), track_id[order]
        # A missing box gets the row before its gap; later it is sorted behind it.
        before, missing_frame = gap_rows(track_id, boxes.frame_index)
        row = np.concatenate([np.arange(len(order)), before])
        frame_index = np.concatenate([boxes.frame_index, missing_frame])
        is_missing = np.arange(len(row)) >= len(order)
        by_frame = np.lexsort((frame_index, track_id[row]))
        row, frame_index, is_missing = row[by_frame], frame_index[by_frame], is_missing[by_frame]
        time_s, track_id_of_row = self._source.frame_time_s[frame_index], track_id[row]
        confidence = np.where(is_missing, np.nan, boxes.confidence[row])
        smoothed = smooth_boxes(track_id_of_row, time_s, boxes.xyxy[row], confidence)
        step_px = np.hypot(*np.diff(smoothed.centre, axis=0, prepend=smoothed.centre[:1]).T)
        step_px[track_starts(track_id_of_row)[0]] = 0
        next_part = boxes.part[np.minimum(row + 1, max(len(order) - 1, 0))]
        is_link = is_missing & (next_part != boxes.part[row])
        # A frame that repeats another shows the object where that one does; a track has a row for each until its end.
        is_repeated = self._source.is_repeated[frame_index]
        shown = np.maximum.accumulate(np.where(is_repeated, 0, np.arange(len(row))))
        is_written = (frame_index >= first_frame) & (frame_index < end_frame)
        is_written &= ~is_missing | (smoothed.variance[shown, 0] <= _MAX_GAP_STD_SIZES**2)
        xyxy = smoothed.xyxy[shown] + np.tile(self._camera_px[frame_index[shown]], (1, 2))
        class_id = self._linked.class_id[track_id_of_row]
        is_sure = is_decided(self._linked.class_votes, self._linked.observations)[track_id_of_row[is_written]]
        names = pa.array(
            [
                self._class_names[number] if is_sure_of_class else UNSURE
                for number, is_sure_of_class in zip(class_id[is_written].tolist(), is_sure.tolist(), strict=True)
            ],
            pa.string(),
        )
        columns: dict[str, Any] = {
            "recording_id": rows["recording_id"].take(order[row[is_written]]),
            "track_id": track_id_of_row[is_written],
            "frame_index": frame_index[is_written],
            "time_s": time_s[is_written],
            "detection_index": rows["detection_index"].take(pa.array(order[row], mask=is_missing).filter(is_written)),
            "is_interpolated": is_missing[is_written],
            "class_id": class_id[is_written],
            "class_name": names,
            "confidence": pa.array(confidence[is_written], mask=is_missing[is_written]),
            **dict(zip(_CORNERS, xyxy[is_written].T, strict=True)),
            "link_confidence": pa.array(self._linked.link_confidence[next_part][is_written], mask=~is_link[is_written]),
            "step_px": step_px[is_written],
        }
        return pa.table(columns)

    def summaries(self) -> pa.Table:
        """Rows of `tracks`, once `boxes` has been read."""
        if not self._sums:
            return TRACKS.empty
        numbers, confidences = self._linked.lowest_confidences()
        links = pa.table({"track_id": pa.array(numbers, pa.int32()), "link_confidence": confidences})
        share = self._linked.class_votes / np.maximum(self._linked.observations, 1)
        class_shares = pa.table({"track_id": pa.array(np.arange(len(share)), pa.int32()), "class_share": share})
        values = {"rate": self._source.rate_fps, "doubtful": _DOUBTFUL_BELOW}
        tables = {"stretches": pa.concat_tables(self._sums), "links": links, "class_shares": class_shares}
        rows = select(_TRACKS_SQL, tables, values)
        return rows.select(TRACKS.arrow_schema.names).cast(TRACKS.arrow_schema)


def _columns(rows: pa.Table, *names: str) -> list[np.ndarray]:
    return [rows[name].to_numpy() for name in names]


def corners(boxes: pa.Table) -> np.ndarray:
    """Corners of boxes in pixels, shape (rows, 4)."""
    return np.stack(_columns(boxes, *_CORNERS), axis=1)


def camera_positions(frames: pa.Table) -> np.ndarray | None:
    """Position of each frame's picture relative to that of the first, as measured in the pictures.

    Args:
        frames: Rows of `frames`, sorted by frame_index.

    Returns:
        In pixels, shape (frames, 2); None in recordings without these measures.
    """
    if not {*CAMERA_COLUMNS} <= {*frames.column_names} or frames[CAMERA_COLUMNS[0]].null_count:
        return None
    return np.stack(_columns(frames, *CAMERA_COLUMNS), axis=1)


def tracked_boxes(boxes: pa.Table) -> TrackedBoxes:
    """Arrays of rows of `track_boxes`, sorted by track_id and frame_index; interpolated boxes have no confidence."""
    track_id, frame_index, time_s, confidence, class_id = _columns(
        boxes, "track_id", "frame_index", "time_s", "confidence", "class_id"
    )
    return TrackedBoxes(track_id, frame_index, time_s, corners(boxes), confidence, class_id)


def track_detections(
    detections: pa.Table,
    frames: pa.Table,
    rate_fps: float,
    settings: TrackSettings,
    track_id: np.ndarray | None = None,
) -> tuple[pa.Table, pa.Table]:
    """Build the rows of `tracks` and `track_boxes` from detections in memory.

    Args:
        detections: Rows of `detections` of one recording, sorted by frame_index and detection_index.
        frames: The recording's rows of `frames`, sorted by frame_index; camera_x_px and camera_y_px may be missing.
        rate_fps: Frames per second: the last frame lasts 1 / rate_fps.
        settings: Method and thresholds.
        track_id: The track of each detection by association alone, 0 for none; None associates them.

    Returns:
        The two tables. Tracks are numbered from 1 in the order in which they start; each has one class, that of most
        of its boxes, or `unsure`.
    """
    source = DetectionSource.of_table(detections, frames["time_s"].to_numpy(), rate_fps)
    recording_tracks = RecordingTracks(source, settings, track_id, camera_positions(frames))
    boxes = pa.concat_tables([TRACK_BOXES.empty, *recording_tracks.boxes()])
    return recording_tracks.summaries(), boxes


def open_source(
    recording_id: str,
    store: Store,
    detection_filter: DetectionFilter,
    frames: pa.Table,
    rate_fps: float,
    max_rate_fps: float | None,
    stretch_rows: int = STRETCH_ROWS,
) -> DetectionSource:
    """Open the stored detections of a recording that count; those of a short one are read at once.

    Of frames that repeat one another only the first with detections counts: otherwise an object would stand until the
    source goes on, and then jump.

    Args:
        recording_id: The recording.
        store: The tables.
        detection_filter: Selects the detections.
        frames: Its rows of `frames`, sorted by frame_index, with time_s and is_duplicated.
        rate_fps: Frames per second.
        max_rate_fps: Highest rate at which the model analysed them; None for every frame.
        stretch_rows: Detections per stretch.
    """
    stored = store.scan(DETECTIONS, [recording_id])
    frame_time_s = frames["time_s"].to_numpy()
    counts, class_ids = np.zeros(len(frame_time_s), int), dict[str, int]()
    filter_columns = ["frame_index", "class_id", "class_name", "confidence"]
    for batch in stored.to_batches(columns=filter_columns, **_LITTLE_READAHEAD):
        rows = detection_filter.select(pa.table(batch))
        counts += np.bincount(rows["frame_index"].to_numpy(), minlength=len(counts))
        for name, class_id in detection_filter.class_ids(rows).items():
            class_ids[name] = min(class_id, class_ids.get(name, class_id))
    is_repeated = frames["is_duplicated"].to_numpy().astype(bool)
    picture = np.cumsum(~is_repeated)  # number of the picture that each frame shows
    with_detections = np.flatnonzero(counts)
    is_repeated[with_detections[np.unique(picture[with_detections], return_index=True)[1]]] = False
    counts[is_repeated] = 0
    is_analysed = counts > 0
    is_analysed[analysed_frame_positions(frames, max_rate_fps)] = True
    analysed = np.flatnonzero(is_analysed & ~is_repeated)
    frame_span = np.zeros(len(counts), int)
    frame_span[analysed] = np.diff(analysed, append=len(counts))

    def read(first_frame: int, end_frame: int) -> pa.Table:
        is_inside = (field("frame_index") >= first_frame) & (field("frame_index") < end_frame)
        rows = stored.to_table(columns=list(_DETECTION_COLUMNS), filter=is_inside, **_LITTLE_READAHEAD)
        if is_repeated.any():
            rows = rows.filter(pa.array(~is_repeated[rows["frame_index"].to_numpy()]))
        return detection_filter.apply(rows.sort_by(_FRAME_ORDER), class_ids)

    first_row = np.concatenate([[0], np.cumsum(counts)])
    source = DetectionSource(read, first_row, frame_time_s, rate_fps, is_repeated, frame_span, stretch_rows)
    return source.in_memory() if counts.sum() <= stretch_rows else source


def track_recording(recording_id: str, store: Store, settings: Settings) -> dict[str, Metadata]:
    """Track the objects of one recording and store their tracks and boxes.

    Raises:
        RecordingError: The recording has no normalized video and therefore no detections.
    """
    rate_fps = read_normalized_row(recording_id, store)["rate_fps"]
    frame_columns = ["frame_index", "time_s", "is_duplicated", *CAMERA_COLUMNS]
    frames = store.read(FRAMES, [recording_id], frame_columns).sort_by("frame_index")
    detection_filter, max_rate_fps = DetectionFilter.of_detector(settings), settings.detections.max_rate_fps
    source = open_source(recording_id, store, detection_filter, frames, rate_fps, max_rate_fps)
    recording_tracks = RecordingTracks(source, settings.tracks, camera_px=camera_positions(frames))
    box_count = interpolated_count = 0
    # The boxes of a long recording are written to disk stretch by stretch before they replace the stored ones.
    checkpoints = Checkpoints(store.data_folder / "unfinished" / TRACKS.name / recording_id, uuid.uuid4().hex)
    is_long, parts = len(list(source.stretches())) > 1, [TRACK_BOXES.empty]
    try:
        for number, rows in enumerate(recording_tracks.boxes()):
            box_count += rows.num_rows
            interpolated_count += pc.sum(rows["is_interpolated"]).as_py() or 0
            if is_long:
                checkpoints.save(number, {TRACK_BOXES.name: rows})
            else:
                parts.append(rows)
        tracks = recording_tracks.summaries()
        store.replace(TRACKS, [recording_id], tracks)
        store.replace(TRACK_BOXES, [recording_id], checkpoints.read(TRACK_BOXES.name) if is_long else parts)
    finally:
        if is_long:
            checkpoints.remove()
    track_counts = class_count_metadata("tracks", Counter(tracks["class_name"].to_pylist()))
    duration = {"mean_duration_s": float(tracks["duration_s"].to_numpy().mean())} if tracks.num_rows else {}
    doubtful_count = pc.sum(tracks["is_doubtful"]).as_py() or 0
    return {
        TRACKS.name: count_metadata(tracks.num_rows, doubtful_count=doubtful_count, **track_counts, **duration),
        TRACK_BOXES.name: count_metadata(box_count, interpolated_count=interpolated_count),
    }


@stage_asset(
    group=ANALYSIS,
    tables=(TRACKS, TRACK_BOXES),
    deps=(DETECTIONS.name, FRAMES.name),
    version=lambda settings: DetectionFilter.of_detector(settings).stage_version(
        "tracks 6", {"tracks": settings.tracks}
    ),
    kinds=("numpy",),
    resource_keys=("models",),
)
def tracks(recording_id: str, run: StageRun, _: ReportProgress) -> Mapping[str, Metadata]:
    """Track the detected objects of each recording from frame to frame."""
    detector = run.settings.detections
    names_by_key = {"class_names": detector.class_names or (), "rename_classes": run.settings.rename_classes}
    run.context.resources.models.check_class_names(detector, names_by_key)
    return track_recording(recording_id, run.store, run.settings)
