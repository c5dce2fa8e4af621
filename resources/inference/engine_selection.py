"""Selection of the engine that runs a model on this machine: the fastest one that agrees with the reference.

A model begins at once with the fastest engine that needs no measurement. The engines are measured when that pays off:
before the recording with which the frames that the model has analysed here reach `MEASURED_AFTER_FRAMES`.
"""

import functools
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resources.config.detection_config import DetectionSettings
from resources.errors import PipelineError, summarize_exception
from resources.inference.detection_arrays import read_detections
from resources.inference.devices import device_name
from resources.inference.engine_agreement import MIN_CONFIDENCE, FrameBoxes, measure_agreement
from resources.inference.engines.engine import Engine, ReadSampleImages
from resources.inference.engines.openvino_engine import OpenVinoEngine, network_folder, openvino_precisions
from resources.inference.engines.tensorrt_engine import TensorRtEngine, has_tensorrt
from resources.inference.engines.torch_engine import TorchEngine
from resources.inference.letterbox import CentreCrop, Letterbox
from resources.inference.weights_description import ModelWeights, selected_class_ids

logger = logging.getLogger(__name__)

_MEASURE_S = 0.6
_WARM_UP_IMAGES = 4
_TENSORRT = "tensorrt"  # a candidate for a GPU, along with the precisions
_NEEDS_MEASUREMENT = ("int8", _TENSORRT)  # used only if a measurement has shown that it agrees
_MIN_REFERENCE_BOXES = 60  # with fewer boxes the measurement is not reliable enough to be stored
_STRICT_BELOW_BOX_COUNT = 150  # with fewer, candidates that need a measurement must agree better

MEASURED_AFTER_FRAMES = 15_000
"""Number of analysed frames after which the engines are measured: ten minutes of video at 25 frames/s.

Measuring then costs at most about a tenth of their analysis: 9.5 % with the bundled model, 3 % with yolo11n (CPU time).
"""


@dataclass(frozen=True)
class EngineMeasurement:
    """Speed and agreement of one engine on this machine, on the user's own recordings; see table `models`."""

    engine_name: str
    precision: str
    frames_per_s: float
    sample_frame_count: int
    reference_name: str
    reference_box_count: int
    recall_iou50: float
    precision_iou50: float
    recall_iou90: float
    precision_iou90: float
    confidence_shift: float

    def agrees(self, min_agreement: float) -> bool:
        """Whether recall and precision against the reference are at least `min_agreement`.

        Where the reference has few boxes, candidates that need a measurement must come twice as close to 1.
        """
        is_strict = self.precision in _NEEDS_MEASUREMENT and self.reference_box_count < _STRICT_BELOW_BOX_COUNT
        threshold = (1 + min_agreement) / 2 if is_strict else min_agreement
        return min(self.recall_iou50, self.precision_iou50) >= threshold


@dataclass(frozen=True)
class Footage:
    """A recording that is about to be analysed.

    Attributes:
        frame_count: Number of its frames on which the model runs.
        read_sample_images: Reads images of the recording, on which engines are measured and int8 is calibrated.
    """

    frame_count: int
    read_sample_images: ReadSampleImages


@dataclass(frozen=True)
class EngineSelection:
    """Selects the engine for one model, device and input size.

    Attributes:
        model: The weights.
        fit: How images are resized to the network's input.
        settings: Engine, precision and thresholds.
        device: The leased device, such as `cpu` or `cuda:0`.
        cache_folder: Folder of compiled networks and measurements.
        show_step: Takes what is being done, as what a person waits for.
    """

    model: ModelWeights
    fit: Letterbox | CentreCrop
    settings: DetectionSettings
    device: str
    cache_folder: Path
    show_step: Callable[[str], None] = field(default=lambda _: None, compare=False)

    def select(self, footage: Footage | None) -> tuple[Engine, Sequence[EngineMeasurement]]:
        """Load the best engine, after measuring the candidates if that is due and there are no stored measurements.

        Args:
            footage: The recording to analyse; None selects without new measurements.

        Returns:
            The engine, and the measurements of the selection; empty if there is only one candidate, or if measuring is
            not due yet or found too little to measure on.

        Raises:
            PipelineError: The settings require an engine or a precision that cannot run the model on this machine.
        """
        if self.model.is_exported and (self.settings.engine == "torch" or self.device != "cpu"):
            raise PipelineError(
                f"The weights {self.model.path} are an exported network, which OpenVINO runs on the CPU: name the .pt "
                f"file to use torch or {self.device}, or set device: cpu and engine: auto."
            )
        try:
            candidates = self._candidates()
            if len(candidates) == 1:
                return self._create_engine(candidates[0], footage.read_sample_images if footage else None), ()
            measurements = self._read_measurements()
            if not measurements and footage and self.is_measuring_due(footage):
                self._write_analysed_frames(0)  # an attempt that fails is repeated as late as this one was made
                measurements = self._measure_candidates(candidates, footage.read_sample_images)
            for _, engine in self._create_working_engines(self._rank(candidates, measurements), None):
                return engine, measurements
            if self.settings.engine == "openvino" or self.model.is_exported:
                return self._create_engine("f32", None), measurements
            logger.warning("No faster engine can be used for %s: torch runs it.", self.model.model_id)
            return self._create_reference_engine(), measurements
        except PipelineError:
            raise
        except Exception as error:
            if self.settings.engine == "openvino" or self.model.is_exported:
                raise PipelineError(f"The weights {self.model.path} cannot be run by OpenVINO: {error}") from error
            if self._uses_torch:
                raise
            # All weights that torch can run are supported; every row names the slower engine.
            logger.warning("OpenVINO cannot run %s, using torch: %s", self.model.model_id, error)
            return TorchEngine(self.model, self.fit, self.device, "f32"), ()

    @property
    def has_alternatives(self) -> bool:
        """Whether there is more than one candidate."""
        return len(self._candidates()) > 1

    def is_measuring_due(self, footage: Footage) -> bool:
        """Whether a recording and the frames analysed here without measurements reach `MEASURED_AFTER_FRAMES`."""
        frame_count = self._read_analysed_frames() + footage.frame_count
        return self.has_alternatives and frame_count >= MEASURED_AFTER_FRAMES

    def count_analysed_frames(self, frame_count: int) -> None:
        """Add frames to those that the model has analysed on this machine without measurements."""
        if self.has_alternatives:
            self._write_analysed_frames(self._read_analysed_frames() + frame_count)

    @property
    def _uses_torch(self) -> bool:
        return self.settings.engine == "torch" or (self.settings.engine == "auto" and self.device != "cpu")

    def _candidates(self) -> list[str]:
        """List the candidates: precisions, and TensorRT. The fastest one that needs no measurement is the last.

        Raises:
            PipelineError: The settings name a precision that this device cannot compute.
        """
        on_gpu = self.device.startswith("cuda")
        precisions = (("f32", "f16") if on_gpu else ("f32",)) if self._uses_torch else openvino_precisions()
        if self.settings.precision == "auto":
            if on_gpu and self.settings.engine == "auto" and has_tensorrt():
                return [_TENSORRT, *precisions]
            return list(precisions)
        if self.settings.precision not in precisions:
            raise PipelineError(
                f"precision: {self.settings.precision} cannot be computed on {self.device} of this machine: "
                f"set {' or '.join(('auto', *precisions))}."
            )
        return [self.settings.precision]

    @functools.cached_property
    def _unmeasured_engine(self) -> Engine:
        """The fastest engine that needs no measurement; loaded once for all attempts to measure."""
        return self._create_engine(self._rank(self._candidates(), [])[0], None)

    def _create_engine(self, candidate: str, read_sample_images: ReadSampleImages | None) -> Engine:
        library = "torch" if self._uses_torch else "OpenVINO"
        engine = "TensorRT" if candidate == _TENSORRT else f"{library} in {candidate}"
        self.show_step(f"{self.model.model_id} to be compiled and loaded for {engine}")
        if candidate == _TENSORRT:
            return TensorRtEngine(self.model, self.fit, self.device, self.cache_folder)
        if self._uses_torch:
            return TorchEngine(self.model, self.fit, self.device, candidate)
        read_letterboxed = (
            None if read_sample_images is None else lambda: [self.fit.apply(image) for image in read_sample_images()]
        )
        return OpenVinoEngine(self.model, self.fit, candidate, self.cache_folder, read_letterboxed)

    def _create_working_engines(
        self, candidates: Iterable[str], read_sample_images: ReadSampleImages | None
    ) -> Iterator[tuple[str, Engine]]:
        """Create the engines of the candidates that work on this machine, in order; log the candidates that fail."""
        for candidate in candidates:
            try:
                is_loaded = [candidate] == self._rank(self._candidates(), [])
                engine = self._unmeasured_engine if is_loaded else self._create_engine(candidate, read_sample_images)
                yield candidate, engine
            except PipelineError:
                raise
            except Exception as error:
                # Drivers or packages of an unsuitable version raise errors of many types; another engine is used.
                summary = summarize_exception(error)
                logger.warning("%s cannot be used for %s: %s", candidate, self.model.model_id, summary)

    def _rank(self, candidates: Sequence[str], measurements: Sequence[EngineMeasurement]) -> list[str]:
        """Rank the usable candidates, best first: those that agree by speed, then the reference's precision.

        Without measurements, this is the last candidate that needs none. The reference's precision is left out if it
        was measured and does not agree either.
        """
        if not measurements:
            return [[name for name in candidates if name not in _NEEDS_MEASUREMENT][-1]]
        agreeing_measurements = [
            m for m in measurements if m.precision in candidates and m.agrees(self.settings.min_agreement)
        ]
        ranked_candidates = [m.precision for m in sorted(agreeing_measurements, key=lambda m: -m.frames_per_s)]
        return ranked_candidates if any(m.precision == "f32" for m in measurements) else [*ranked_candidates, "f32"]

    @property
    def _engine_folder(self) -> Path:
        if not self._uses_torch:
            return network_folder(self.model, self.fit, self.cache_folder)
        import torch

        size = f"{self.fit.input_width_px}x{self.fit.input_height_px}"
        return self.cache_folder / self.model.content_hash / f"torch-{torch.__version__}-{size}"

    @property
    def _measurements_file(self) -> Path:
        # cuda:0 may be another GPU later, and several machines may share a home folder on the network.
        device = re.sub(r"\W+", "-", device_name(self.device))
        # Other candidates, for example after TensorRT was installed, need a new measurement.
        return self._engine_folder / f"measured-{device}-{'-'.join(self._candidates())}.json"

    @property
    def _analysed_frames_file(self) -> Path:
        return self._measurements_file.with_name(f"analysed-{self._measurements_file.name}")

    def _read_analysed_frames(self) -> int:
        with suppress(FileNotFoundError, ValueError, TypeError, KeyError):  # missing or damaged: counted from 0
            return int(json.loads(self._analysed_frames_file.read_text())["frame_count"])
        return 0

    def _write_analysed_frames(self, frame_count: int) -> None:
        """Store the number of frames; if two processes add at the same time, one addition may be lost: no harm."""
        _write_json(self._analysed_frames_file, {"frame_count": frame_count})

    def _read_measurements(self) -> list[EngineMeasurement]:
        """Read the stored measurements; empty if there are none or if the measured int8 network no longer exists."""
        file = self._measurements_file
        try:
            measurements = [EngineMeasurement(**values) for values in json.loads(file.read_text())]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            logger.info("%s is damaged (%s): the engines are measured again.", file, type(error).__name__)
            return []
        uses_int8 = any(m.precision == "int8" for m in measurements)
        return [] if uses_int8 and not (self._engine_folder / "int8.xml").exists() else measurements

    def _write_measurements(self, measurements: list[EngineMeasurement]) -> None:
        _write_json(self._measurements_file, [asdict(measurement) for measurement in measurements])

    def _measure_candidates(
        self, candidates: Sequence[str], read_sample_images: ReadSampleImages
    ) -> list[EngineMeasurement]:
        """Measure all candidates on the user's own recordings; half of the images calibrate int8, half are compared.

        Returns an empty list where there are too few detections; the images of the next recording may have more.
        """
        self.show_step(f"{self.model.model_id} to be tried on images of the recording")
        images = list(read_sample_images())
        calibration_images, evaluation_images = images[0::2], images[1::2]
        letterboxed = [self.fit.apply(image) for image in evaluation_images]
        min_boxes = len(evaluation_images) // 2 if self.model.task == "classify" else _MIN_REFERENCE_BOXES
        engine = self._unmeasured_engine
        boxes_by_frame = self._detect_boxes(engine, letterboxed, evaluation_images)
        box_count = sum(int((boxes.confidence >= MIN_CONFIDENCE).sum()) for boxes in boxes_by_frame)
        if box_count < max(1, min_boxes):
            return []
        reference = self._create_reference_engine()
        engines = {engine.precision: engine}
        if self._uses_torch:
            engines[reference.precision] = reference
        remaining_candidates = [name for name in candidates if name not in engines]
        engines |= dict(self._create_working_engines(remaining_candidates, lambda: calibration_images))
        measurements = self._compare_engines(engines, reference, letterboxed, evaluation_images)
        for measurement in measurements:
            if not measurement.agrees(self.settings.min_agreement):
                logger.warning(
                    "%s is not used for %s: recall of the reference's boxes %.3f, precision %.3f.",
                    measurement.engine_name, self.model.model_id, measurement.recall_iou50, measurement.precision_iou50,
                )  # fmt: skip
        self._write_measurements(measurements)
        return measurements

    def _compare_engines(
        self, engines: dict[str, Engine], reference: Engine, letterboxed: list[np.ndarray], images: list[np.ndarray]
    ) -> list[EngineMeasurement]:
        """Measure each engine's agreement with the reference, and its speed."""
        self.show_step(f"the engines of {self.model.model_id} to be measured ({', '.join(engines)})")
        reference_boxes = self._detect_boxes(reference, letterboxed, images)
        agreements = {
            name: measure_agreement(reference_boxes, self._detect_boxes(engine, letterboxed, images))
            for name, engine in engines.items()
        }
        # Each engine is measured twice and the faster result counts: a short load by another program has no effect.
        rounds = [
            {name: _measure_frames_per_s(engine, letterboxed) for name, engine in engines.items()} for _ in range(2)
        ]
        return [
            EngineMeasurement(
                engine.name,
                name,
                max(frames_per_s[name] for frames_per_s in rounds),
                len(letterboxed),
                reference.name,
                agreements[name].reference_count,
                agreements[name].recall,
                agreements[name].precision,
                agreements[name].recall_iou90,
                agreements[name].precision_iou90,
                agreements[name].confidence_shift,
            )
            for name, engine in engines.items()
        ]

    def _create_reference_engine(self) -> Engine:
        """Create the engine that Ultralytics itself uses: torch in f32; for exported networks, OpenVINO in f32."""
        if self.model.is_exported:
            return OpenVinoEngine(self.model, self.fit, "f32", self.cache_folder)
        return TorchEngine(self.model, self.fit, self.device, "f32")

    def _detect_boxes(
        self, engine: Engine, letterboxed: list[np.ndarray], images: list[np.ndarray]
    ) -> list[FrameBoxes]:
        class_ids = selected_class_ids(self.model, self.settings)
        boxes_by_frame = []
        for outputs, image in zip(engine.infer(letterboxed), images, strict=True):
            size_px = image.shape[1], image.shape[0]
            detections = read_detections(outputs, self.model, self.fit, self.settings, class_ids, *size_px)
            boxes_by_frame.append(FrameBoxes(detections.xyxy, detections.confidence, detections.class_id))
        return boxes_by_frame


def _write_json(file: Path, value: Any) -> None:
    """Write a file of the cache folder so that no other process reads a part of it."""
    partial = file.with_suffix(f".{os.getpid()}")
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(value, indent=1))
    partial.replace(file)


def _measure_frames_per_s(
    engine: Engine, letterboxed: Sequence[np.ndarray], clock_s: Callable[[], float] = time.monotonic
) -> float:
    """Measure the throughput of an engine, from the outputs of one batch to those of a later one.

    Args:
        engine: The engine.
        letterboxed: Images, which are repeated.
        clock_s: Returns the time in seconds.
    """
    output_times_s: list[float] = []
    batch = engine.batch
    first = -(-max(_WARM_UP_IMAGES, engine.in_flight) // batch) * batch
    last = 0

    def repeat_images() -> Iterator[np.ndarray]:
        nonlocal last
        for image in itertools.cycle(letterboxed):
            last = (len(output_times_s) - 1) // batch * batch
            if last > first and output_times_s[last] - output_times_s[first] > _MEASURE_S:
                return
            yield image

    for _ in engine.infer(repeat_images()):
        output_times_s.append(clock_s())
    return (last - first) / (output_times_s[last] - output_times_s[first])
