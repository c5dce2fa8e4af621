"""The inference of one model on one recording: which frames are decoded, on what region, with which engine."""

import functools
import itertools
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pyarrow as pa

from cv_assets.detection_filter import DetectionFilter
from cv_assets.media_status import VideoFile, find_normalized_video, read_normalized_row
from resources.config.detection_config import DetectionSettings
from resources.config.settings import settings_version
from resources.errors import RecordingError
from resources.inference.detection_arrays import Detections
from resources.inference.detection_region import DetectionRegion
from resources.inference.detector import Models
from resources.inference.engine_selection import Footage
from resources.inference.frame_skipping import decode_changed_frames
from resources.inference.gpu_frames import decode_on_best_device
from resources.inference.tiles import AnyDetector, TiledDetector, plan_tiles
from resources.media.frame_reader import Image, sample_images
from resources.media.progress import ReportProgress
from resources.previews.annotated_frames import annotate_image
from resources.previews.boxes_sheet import BoxesSheet
from resources.previews.preview_throttle import PreviewFrame
from resources.schema.recording_tables import FRAMES
from resources.storage.delta_store import Store

_SAMPLE_FRAMES = 48


def analysed_frame_positions(frames: pa.Table, max_rate_fps: float | None) -> np.ndarray:
    """Positions of the frames on which a model runs: the first new one in every interval of 1 / max_rate_fps seconds.

    Args:
        frames: Rows of `frames`, ascending, with time_s and is_duplicated.
        max_rate_fps: None means all frames, also those that repeat another.
    """
    if max_rate_fps is None:
        return np.arange(frames.num_rows)
    new = np.flatnonzero(~frames["is_duplicated"].to_numpy().astype(bool))
    # A time on the edge of an interval must not fall into the preceding one by a rounding error.
    interval = np.floor(frames["time_s"].to_numpy()[new] * max_rate_fps + 1e-6)
    return np.asarray(new[np.diff(interval, prepend=-1) > 0])


@dataclass(frozen=True)
class RecordingInference:
    """One model, loaded for one recording, with the frames on which it runs.

    Attributes:
        recording_id: The recording.
        video: Its normalized video.
        rate_fps: Frame rate of the video.
        width_px: Width of the video.
        height_px: Height of the video.
        frame_count: Number of frames of the video.
        frames: The rows of `frames` on which the model runs, ascending by frame_index.
        region: The rectangle of the frame on which the model runs.
        detector: The model.
        device: The leased device.
        checkpoint_frames: Number of analysed frames per checkpoint.
        skip_unchanged_frames: Whether unchanged frames reuse the detections of an earlier one.
        preview_filter: Selects the boxes of the previews.
    """

    recording_id: str
    video: VideoFile
    rate_fps: Fraction
    width_px: int
    height_px: int
    frame_count: int
    frames: pa.Table
    region: DetectionRegion
    detector: AnyDetector
    device: str
    checkpoint_frames: int
    skip_unchanged_frames: bool
    preview_filter: DetectionFilter

    @property
    def version(self) -> str:
        """Version of everything except the settings that decides the detections."""
        polygons = [polygon.tolist() for polygon in self.region.polygons]
        video_version = self.video.path.stat().st_mtime_ns
        parts = (self.detector.engine_name, video_version, self.frame_count, self.checkpoint_frames, polygons)
        return settings_version(*(str(part) for part in parts))

    def detect(self, first: int, progress: ReportProgress, sheet: BoxesSheet) -> Iterator[Detections]:
        """Run the model on each frame.

        Args:
            first: Position in `frames` of the first frame to analyse.
            progress: Takes the number of analysed frames, and a preview whenever one is due.
            sheet: Collects some of the frames with their boxes.

        Yields:
            The detections of each frame in pixels of the whole frame.
        """
        frame_indices = self.frames["frame_index"].to_pylist()[first:]
        times_s = self.frames["time_s"].to_numpy()
        total = self.frames.num_rows
        preview = PreviewFrame(total)

        def crop_to_region(images: Iterator["Image | None"]) -> Iterator["Image | None"]:
            for position, image in enumerate(images, first):
                if image is not None:
                    preview.store_if_due(position, image)
                    sheet.store_if_due(position, image)
                yield None if image is None else self.region.crop(image)

        with closing(self._decode(frame_indices)) as images:
            size_px = (self.region.width_px, self.region.height_px)
            for position, in_region in enumerate(self.detector.detect(crop_to_region(images), size_px), first):
                detections = in_region.to_full_frame(self.region, keep_outside=self.detector.task == "classify")
                yield detections
                annotate = functools.partial(self._annotate, detections=detections)
                sheet.add_boxes(position, times_s[position], len(detections.xyxy), annotate)
                image = preview.take(position)
                progress(position + 1, total, None if image is None else annotate(image))

    def _decode(self, frame_indices: Sequence[int]) -> Generator["Image | None", None, None]:
        """Decode the frames with some indices; None for one that has not changed and is not analysed."""
        downscale_factor = 1 if self.region.polygons else self.detector.downscale_factor(self.width_px, self.height_px)
        if self.skip_unchanged_frames:
            # The first frame of each checkpoint is always analysed, so that a resumed run gives the same detections.
            return decode_changed_frames(
                self.video.path,
                frame_indices,
                self.rate_fps,
                self.region,
                self.checkpoint_frames,
                downscale_factor=downscale_factor,
            )
        return decode_on_best_device(
            self.video.path,
            frame_indices,
            self.rate_fps,
            self.device if self.detector.accepts_tensors else "cpu",
            thread_count=self.detector.decoder_thread_count,
            downscale_factor=downscale_factor,
        )

    def _annotate(self, image: np.ndarray, detections: Detections) -> np.ndarray:
        """Draw the selected detections of a frame and the polygons of the region on its preview."""
        size_px = np.array([self.width_px, self.height_px])
        names = [self.detector.class_names[int(class_id)] for class_id in detections.class_id]
        polygons = [polygon / size_px for polygon in self.region.polygons]
        is_kept = self.preview_filter.is_kept(pa.array(names, pa.string()), detections.confidence)
        boxes = detections.xyxy[is_kept] / np.tile(size_px, 2)
        names = [names[index] for index in np.flatnonzero(is_kept)]
        return annotate_image(image, boxes, names, detections.class_id[is_kept].tolist(), polygons)


def prepare_inference(
    recording_id: str,
    store: Store,
    settings: DetectionSettings,
    models: Models,
    device: str,
    checkpoint_s: float,
) -> RecordingInference:
    """Load a model for a recording and select the frames on which it runs.

    Args:
        recording_id: The recording.
        store: The tables.
        settings: The model.
        models: Loads the model.
        device: The leased device.
        checkpoint_s: Duration of video per checkpoint.

    Raises:
        RecordingError: The recording has no normalized video, or the video does not match its frames.
        PipelineError: The weights cannot be used, or have no class that the settings name.
    """
    models.check_class_names(settings, {"class_names": settings.class_names or ()})
    preview_filter, settings = DetectionFilter.of_model(settings), settings.inference_settings
    row = read_normalized_row(recording_id, store)
    video = find_normalized_video(row, store.data_folder)
    frames = store.read(FRAMES, [recording_id], ["frame_index", "source_frame_index", "time_s", "is_duplicated"])
    frames = frames.sort_by("frame_index")
    if frames.num_rows != row["frame_count"]:
        raise RecordingError(
            f"The normalized video has {row['frame_count']} frames, but the table frames has {frames.num_rows} rows: "
            "materialize normalized_video again."
        )
    rate_fps = Fraction(row["rate_fps_num"], row["rate_fps_den"])
    region = DetectionRegion.from_polygons(settings.region_of(row["camera"]), row["width_px"], row["height_px"])
    image_size_px = settings.image_size_px or models.weights(settings).image_size_px
    tiles = plan_tiles(region.width_px, region.height_px, settings.tiles) if settings.tiles else ()
    input_px = (tiles[0].width_px, tiles[0].height_px) if tiles else (region.width_px, region.height_px)
    if not tiles and region.polygons and settings.task != "classify":
        # The region keeps the scale that it has in the whole frame: fewer pixels, the same boxes.
        share = max(region.width_px, region.height_px) / max(row["width_px"], row["height_px"])
        image_size_px = max(1, round(image_size_px * share))
    positions = analysed_frame_positions(frames, settings.max_rate_fps)

    def read_sample_images() -> list[np.ndarray]:
        images = sample_images(video.path, _SAMPLE_FRAMES, frames.num_rows, rate_fps)
        parts = itertools.cycle(tiles[: -1 if settings.tiles and settings.tiles.whole_frame else None])
        in_region = [region.crop(image) for image in images]
        return [next(parts).cut(image) for image in in_region] if tiles else in_region

    detector = models.detector(
        settings.model_copy(update={"image_size_px": image_size_px}),
        *input_px,
        device,
        Footage(len(positions) * max(1, len(tiles)), read_sample_images),
    )
    return RecordingInference(
        recording_id,
        video,
        rate_fps,
        row["width_px"],
        row["height_px"],
        frames.num_rows,
        frames.take(pa.array(positions)),
        region,
        TiledDetector(detector, tiles, settings) if tiles else detector,
        device,
        max(1, round(checkpoint_s * float(rate_fps) * len(positions) / max(frames.num_rows, 1))),
        settings.skip_unchanged_frames,
        preview_filter,
    )
