"""detections: one row per box per frame (recording_id, frame_index, detection_index), best box first.

Weights of other tasks fill tables beside it: masks, keypoints, oriented_boxes or frame_classes. Every further model of
the settings is an asset of its own, made by the same factory, with tables called after it.
"""

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from dagster import AssetExecutionContext, AssetsDefinition, ResourceParam, multi_asset

from cv_assets.cameras import regions_of
from cv_assets.partitions import recordings_partitions
from cv_assets.stage import (
    ANALYSIS,
    Metadata,
    Stage,
    backfill_policy,
    class_counts,
    count_metadata,
    table_asset,
    table_checks,
    video_of,
)
from resources.checkpoints import Parts
from resources.errors import RecordingError
from resources.footage import Picture, sample
from resources.inference.detector import Detector, Models, available_devices, device_name, lock_name
from resources.inference.device_lease import device_lease
from resources.inference.gpu_footage import best_pictures
from resources.inference.postprocessing import Found
from resources.inference.static import changed_pictures
from resources.inference.weights import detection_version
from resources.media.normalizing import Progress
from resources.pictures import Glance, annotated
from resources.region import Region
from resources.run_coordinator import GPU_POOL
from resources.schema import FRAMES, MODEL_RUNS, MODELS, RECORDINGS, Table, model_tables
from resources.settings import DetectionSettings, Settings, current_settings, settings_version
from resources.storage import Store
from resources.wall_clock import with_times

_LOGIC = "detections 5"
_SAMPLE_FRAMES = 48
_REUSED = "reused_frame_count"
_SHOWN = ("engine_name", "model_id", "frame_count", "analysed_frame_count", "reused_frame_count")
_CORNERS = ("x_min_px", "y_min_px", "x_max_px", "y_max_px")


def detection_rows(recording_id: str, found: Sequence[Found], frames: pa.Table, detector: Detector) -> pa.Table:
    """The rows of `detections`.

    Args:
        recording_id: The recording.
        found: What was found in each frame.
        frames: The rows of `frames` of these frames, in the same order.
        detector: Whose boxes these are.
    """
    if detector.task == "classify":
        found = []  # a class of the whole frame is no box
    place, index = _places(found)
    of_frame = frames.take(pa.array(place))
    xyxy = np.concatenate([f.xyxy for f in found] or [np.empty((0, 4))]).astype(np.float64)
    return pa.table(
        {
            "recording_id": pa.repeat(recording_id, len(place)),
            "frame_index": of_frame["frame_index"],
            "detection_index": index,
            "source_frame_index": of_frame["source_frame_index"],
            **_told(found, place, of_frame, detector),
            **{edge: xyxy[:, i] for i, edge in enumerate(_CORNERS)},
        }
    )


def frame_class_rows(recording_id: str, found: Sequence[Found], frames: pa.Table, detector: Detector) -> pa.Table:
    """The rows of `frame_classes`; see `detection_rows`."""
    place, index = _places(found)
    of_frame = frames.take(pa.array(place))
    return pa.table(
        {
            "recording_id": pa.repeat(recording_id, len(place)),
            "frame_index": of_frame["frame_index"],
            "rank": index + np.int32(1),
            **_told(found, place, of_frame, detector),
        }
    )


def mask_rows(recording_id: str, found: Sequence[Found], frames: pa.Table, _: Detector) -> pa.Table:
    """The rows of `masks`; see `detection_rows`."""
    outlines = [polygon.ravel().astype(np.float64) for f in found for polygon in f.polygons or ()]
    areas = [f.mask_areas for f in found if f.mask_areas is not None]
    return pa.table(
        {
            **_key(recording_id, found, frames),
            "area_px": np.concatenate(areas or [np.empty(0)]).astype(np.float64),
            "polygon_px": pa.array(outlines, pa.list_(pa.float64())),
        }
    )


def keypoint_rows(recording_id: str, found: Sequence[Found], frames: pa.Table, _: Detector) -> pa.Table:
    """The rows of `keypoints`; see `detection_rows`."""
    points = [f.keypoints for f in found if f.keypoints is not None]
    values = np.concatenate(points or [np.empty((0, 1, 3))]).astype(np.float64)
    count = values.shape[1]
    key = pa.table(_key(recording_id, found, frames))
    rows = key.take(pa.array(np.repeat(np.arange(key.num_rows), count)))
    flat = values.reshape(-1, 3)
    columns = {
        "keypoint_index": np.tile(np.arange(count, dtype=np.int32), key.num_rows),
        "x_px": flat[:, 0],
        "y_px": flat[:, 1],
        "confidence": flat[:, 2].clip(0, 1),
    }
    return pa.table({**{name: rows[name] for name in rows.column_names}, **columns})


def oriented_box_rows(recording_id: str, found: Sequence[Found], frames: pa.Table, _: Detector) -> pa.Table:
    """The rows of `oriented_boxes`; see `detection_rows`."""
    boxes = [f.oriented for f in found if f.oriented is not None]
    values = np.concatenate(boxes or [np.empty((0, 5))]).astype(np.float64)
    names = ("centre_x_px", "centre_y_px", "box_width_px", "box_height_px")
    return pa.table(
        {
            **_key(recording_id, found, frames),
            **{name: values[:, i] for i, name in enumerate(names)},
            "angle_deg": np.degrees(values[:, 4]),
        }
    )


_ROWS: dict[str, Callable[[str, Sequence[Found], pa.Table, Detector], pa.Table]] = {
    "detections": detection_rows,
    "masks": mask_rows,
    "keypoints": keypoint_rows,
    "oriented_boxes": oriented_box_rows,
    "frame_classes": frame_class_rows,
}


def _places(found: Sequence[Found]) -> tuple[np.ndarray, np.ndarray]:
    """For every box, the position of its frame in `found` and its number in the frame."""
    counts = np.array([len(f) for f in found], np.int64)
    place = np.repeat(np.arange(len(found)), counts)
    return place, (np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.int32)


def _key(recording_id: str, found: Sequence[Found], frames: pa.Table) -> dict[str, Any]:
    place, index = _places(found)
    frame_index = frames["frame_index"].take(pa.array(place))
    return {
        "recording_id": pa.repeat(recording_id, len(place)),
        "frame_index": frame_index,
        "detection_index": index,
    }


def _told(found: Sequence[Found], place: np.ndarray, of_frame: pa.Table, detector: Detector) -> dict[str, Any]:
    class_id = np.concatenate([f.class_id for f in found] or [np.empty(0)]).astype(np.int32)
    return {
        "time_s": of_frame["time_s"],
        "captured_at_utc": of_frame["captured_at_utc"],
        "class_id": class_id,
        "class_name": pa.array([detector.class_names[int(c)] for c in class_id], pa.string()),
        "confidence": np.concatenate([f.confidence for f in found] or [np.empty(0)]).astype(np.float64).clip(0, 1),
        "is_reused": np.array([f.is_reused for f in found], bool)[place],
        "model_id": pa.repeat(detector.model_id, len(place)),
        "engine_name": pa.repeat(detector.engine_name, len(place)),
    }


def analysed_frames(time_s: np.ndarray, max_rate_fps: float | None) -> np.ndarray:
    """Indices of the frames that a model looks at: the first of every 1 / max_rate_fps seconds.

    Args:
        time_s: Times of all frames, ascending, shape (n,).
        max_rate_fps: None means all frames.
    """
    if max_rate_fps is None:
        return np.arange(len(time_s))
    # A time that is meant to lie on the edge of a span must not fall short of it by a rounding error.
    span = np.floor(time_s * max_rate_fps + 1e-6)
    return np.flatnonzero(np.diff(span, prepend=-1) > 0)


@dataclass(frozen=True)
class _Work:
    """One recording as one model sees it.

    Attributes:
        recording_id: The recording.
        video: Its normalized video.
        rate_fps: The video's rate.
        width_px: Its width.
        height_px: Its height.
        frame_count: Frames of the video.
        frames: The rows of `frames` that the model looks at, by frame_index.
        region: The part of the picture that it looks at.
        detector: The model.
        device: The leased device.
        part_frames: Frames of a part.
        skip_static: Whether frames that look the same as one before are not looked at.
    """

    recording_id: str
    video: Path
    rate_fps: Fraction
    width_px: int
    height_px: int
    frame_count: int
    frames: pa.Table
    region: Region
    detector: Detector
    device: str
    part_frames: int
    skip_static: bool

    @property
    def version(self) -> str:
        """Of everything but the settings that decides what is found."""
        polygons = [polygon.tolist() for polygon in self.region.polygons]
        parts = (self.detector.engine_name, self.video.stat().st_mtime_ns, self.frame_count, self.part_frames, polygons)
        return settings_version(*(str(part) for part in parts))

    def found(self, first: int, progress: Progress) -> Iterator[Found]:
        """What the model finds in each frame from the `first` on."""
        wanted = self.frames["frame_index"].to_pylist()[first:]
        total = self.frames.num_rows
        glance = Glance(total)

        def seen(source: Iterator["Picture | None"]) -> Iterator["Picture | None"]:
            for number, picture in enumerate(source, first):
                if picture is not None:
                    glance.offer(number, picture)
                yield None if picture is None else self.region.cut(picture)

        with closing(self._pictures(wanted)) as source:
            size_px = (self.region.width_px, self.region.height_px)
            for number, cut in enumerate(self.detector.detect(seen(source), size_px), first):
                found = self.region.back(cut, of_picture=self.detector.task == "classify")
                yield found
                picture = glance.taken(number)
                progress(number + 1, total, None if picture is None else self._shown(picture, found))

    def _pictures(self, wanted: Sequence[int]) -> Generator["Picture | None", None, None]:
        """The frames of these indices as pictures; None for one that need not be looked at."""
        shrunk_by = 1 if self.region.polygons else self.detector.shrunk_by(self.width_px, self.height_px)
        if self.skip_static:
            # Each part begins with a frame that is looked at: a resumed run finds what an undisturbed one finds.
            return changed_pictures(
                self.video, wanted, self.rate_fps, self.region, self.part_frames, shrunk_by=shrunk_by
            )
        device = self.device if self.detector.takes_tensors else "cpu"
        threads = self.detector.decoding_threads
        return best_pictures(self.video, wanted, self.rate_fps, device, thread_count=threads, shrunk_by=shrunk_by)

    def _shown(self, picture: np.ndarray, found: Found) -> np.ndarray:
        """A small picture of a frame with what was found in it."""
        size = np.array([self.width_px, self.height_px])
        names = [self.detector.class_names[int(number)] for number in found.class_id]
        polygons = [polygon / size for polygon in self.region.polygons]
        return annotated(picture, found.xyxy / np.tile(size, 2), names, found.class_id.tolist(), polygons)


def _work(
    recording_id: str,
    store: Store,
    settings: DetectionSettings,
    models: Models,
    device: str,
    checkpoint_s: float,
) -> _Work:
    row = next(iter(store.read(RECORDINGS, [recording_id]).to_pylist()), None)
    video = video_of(row, store.data_folder)
    assert row is not None
    frames = store.read(FRAMES, [recording_id], ["frame_index", "source_frame_index", "time_s", "captured_at_utc"])
    frames = with_times(frames.sort_by("frame_index"), row["started_at_utc"])
    rate = Fraction(row["rate_fps_num"], row["rate_fps_den"])
    if frames.num_rows != row["frame_count"]:
        raise RecordingError(
            f"Its normalized video holds {row['frame_count']} frames and its frames table {frames.num_rows}: "
            "materialize normalized_video again."
        )
    region = Region.of(settings.region_of(row["camera"]), row["width_px"], row["height_px"])
    size_px = settings.image_size_px or models.weights(settings).image_size_px
    if region.polygons and settings.task != "classify":
        # The rectangle is looked at as large as it is in the whole picture: fewer pixels, the same boxes.
        share = max(region.width_px, region.height_px) / max(row["width_px"], row["height_px"])
        size_px = max(1, round(size_px * share))
    detector = models.detector(
        settings.model_copy(update={"image_size_px": size_px}),
        region.width_px,
        region.height_px,
        device,
        lambda: [region.cut(picture) for picture in sample(video, _SAMPLE_FRAMES, frames.num_rows, rate)],
    )
    analysed = frames.take(pa.array(analysed_frames(frames["time_s"].to_numpy(), settings.max_rate_fps)))
    part_frames = max(1, round(checkpoint_s * float(rate) * analysed.num_rows / max(frames.num_rows, 1)))
    size = row["width_px"], row["height_px"]
    return _Work(
        recording_id, video, rate, *size, frames.num_rows, analysed, region, detector, device, part_frames,
        settings.skip_static,
    )  # fmt: skip


def detect_recording(
    recording_id: str,
    store: Store,
    settings: DetectionSettings,
    tables: Sequence[Table],
    models: Models,
    device: str,
    progress: Progress,
    checkpoint_s: float = 60.0,
) -> dict[str, Metadata]:
    """Run a model over one normalized video and store what it finds.

    Finished parts of the video are kept aside, so that after a kill only the part under way is done again.

    Args:
        recording_id: The recording.
        store: The tables.
        settings: The model.
        tables: The tables that it fills; the first is called as its asset.
        models: Loads the model.
        device: The leased device.
        progress: Told how far it is.
        checkpoint_s: Length of a part.

    Raises:
        RecordingError: The recording has no normalized video yet.
        PipelineError: The weights cannot be used.
    """
    work = _work(recording_id, store, settings, models, device, checkpoint_s)
    folder = store.data_folder / "unfinished" / tables[0].name / recording_id
    parts = Parts(folder, settings_version(_LOGIC, work.version, *detection_version(settings)))
    number, found = parts.count(), list[Found]()
    resumed_at, started = number * work.part_frames, time.monotonic()

    def rows() -> dict[str, pa.Table]:
        frames = work.frames.slice(number * work.part_frames, len(found))
        made = {t: _rows_of(t)(recording_id, found, frames, work.detector) for t in tables}
        kept = {t.name: rows.select(t.arrow_schema.names).cast(t.arrow_schema) for t, rows in made.items()}
        return kept | {_REUSED: pa.table({_REUSED: [sum(one.is_reused for one in found)]})}

    for one in work.found(resumed_at, progress):
        if len(found) == work.part_frames:
            parts.keep(number, rows())
            number, found = number + 1, []
        found.append(one)
    seen = number * work.part_frames + len(found)
    if seen != work.frames.num_rows:
        raise RecordingError(
            f"Only {seen} of {work.frames.num_rows} frames of its normalized video decode: "
            "materialize normalized_video again."
        )
    elapsed_s = time.monotonic() - started
    last = rows()
    whole = {name: [*parts.rows(name), last[name]] for name in last}
    for table in tables:
        store.replace(table, [recording_id], whole[table.name])
    run = {
        "recording_id": recording_id,
        "asset_name": tables[0].name,
        "model_id": work.detector.model_id,
        "engine_name": work.detector.engine_name,
        "device_name": device_name(device),
        "frame_count": work.frame_count,
        "analysed_frame_count": work.frames.num_rows,
        "reused_frame_count": sum(part[_REUSED][0].as_py() for part in whole[_REUSED]),
        "elapsed_s": elapsed_s,
    }
    run_rows = pa.Table.from_pylist([run], MODEL_RUNS.arrow_schema)
    store.replace(MODEL_RUNS, [recording_id], run_rows, only={"asset_name": tables[0].name})
    _keep_measures(work.detector, device, store)
    shown = {name: run[name] for name in _SHOWN} | {"resumed_at_frame": resumed_at}
    classed = tables[-1].name if work.detector.task == "classify" else tables[0].name
    per_class: Counter[str] = Counter()
    for part in whole[classed]:
        per_class.update({pair["values"]: pair["counts"] for pair in part["class_name"].value_counts().to_pylist()})
    analysed_count = work.frames.num_rows - resumed_at
    shown |= {"frames_per_s": round(analysed_count / max(elapsed_s, 1e-3), 1), **class_counts("boxes", per_class)}
    counts = {name: sum(part.num_rows for part in made) for name, made in whole.items()}
    parts.remove()
    return {table.name: count_metadata(counts[table.name], **shown) for table in tables}


def _rows_of(table: Table) -> Callable[[str, Sequence[Found], pa.Table, Detector], pa.Table]:
    return next(rows for name, rows in _ROWS.items() if table.name == name or table.name.endswith(f"_{name}"))


def _keep_measures(detector: Detector, device: str, store: Store) -> None:
    """Write down in `models` what was measured to choose the engine, once."""
    if not detector.measured:
        return
    name = device_name(device)
    rows = [
        {
            "model_id": detector.model_id,
            "device_name": name,
            "task": detector.task,
            "is_used": measured.engine_name == detector.engine_name,
            **{column: value for column, value in asdict(measured).items() if column != "precision"},
        }
        for measured in detector.measured
    ]
    known = {(row["model_id"], row["engine_name"], row["device_name"]): row for row in store.read(MODELS).to_pylist()}
    for row in rows:
        if known.get((row["model_id"], row["engine_name"], name)) != row:
            one = pa.Table.from_pylist([row], MODELS.arrow_schema)
            key = {column: str(row[column]) for column in MODELS.key}
            store.replace(MODELS, [], one, only=key)


def models_by_asset(settings: Settings) -> dict[str, DetectionSettings]:
    """The models of the settings, by the asset that each makes first."""
    further = {model_tables(model.task, model.name)[0].name: model for model in settings.models}
    return {model_tables(settings.detections.task, None)[0].name: settings.detections, **further}


def model_assets(settings: DetectionSettings, name: str | None = None) -> AssetsDefinition:
    """The asset of one model: its table, and those beside it that its task fills.

    Args:
        settings: The model's settings when the code location is loaded; they decide which tables there are.
        name: Name of a further model; None means the detector of the walk.
    """
    tables = model_tables(settings.task, name)
    stage = Stage(tables[0].name, tables)

    @multi_asset(
        name=tables[0].name,
        specs=[
            table_asset(
                table,
                group=ANALYSIS,
                code_version=settings_version(_LOGIC, *detection_version(settings)),
                deps=["normalized_video", FRAMES.name, regions_of(name).name],
                kinds=("ultralytics", "openvino"),
            )
            for table in tables
        ],
        check_specs=table_checks(*tables),
        partitions_def=recordings_partitions,
        backfill_policy=backfill_policy(),
        pool=GPU_POOL,
    )
    def look(
        context: AssetExecutionContext,
        store: ResourceParam[Store],
        settings: ResourceParam[Settings],
        models: ResourceParam[Models],
    ) -> Iterator[Any]:
        """Run the model on each frame, on a leased device."""
        mine = settings.detections if name is None else next(m for m in settings.models if m.name == name)
        checkpoint_s = settings.batches.checkpoint_s
        devices = available_devices(mine)
        with device_lease(devices, lambda: context.log.info(f"Waiting for one of {devices}"), lock_name) as device:
            context.log.info(f"Holds {device}.")
            try:
                yield from stage.each_recording(
                    context,
                    store,
                    lambda r, told: detect_recording(r, store, mine, tables, models, device, told, checkpoint_s),
                )
            finally:
                context.log.info(f"Gives back {device}.")

    return look


detections = model_assets(current_settings().detections)
further_models = tuple(model_assets(model, model.name) for model in current_settings().models)
