"""Detectors: run a model on sequences of frames, on the fastest engine of this machine that agrees with the reference.

A loaded detector stays loaded as long as its process runs.
"""

import functools
import logging
import os
import queue
import threading
import warnings
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resources.config.detection_config import DetectionSettings
from resources.errors import summarize_exception
from resources.inference.detection_arrays import Detections, read_detections
from resources.inference.device_lease import user_cache_folder
from resources.inference.devices import available_devices
from resources.inference.engine_selection import EngineMeasurement, EngineSelection, Footage
from resources.inference.engines.engine import Engine
from resources.inference.engines.openvino_engine import export_network
from resources.inference.engines.torch_engine import TorchEngine
from resources.inference.gpu_frames import letterbox_tensor
from resources.inference.gpu_memory import retry_after_freeing_memory
from resources.inference.letterbox import CentreCrop, Letterbox, choose_input_fit
from resources.inference.plain_networks import bundled_network
from resources.inference.prefetch import Prefetch
from resources.inference.weights import find_weights, load_weights
from resources.inference.weights_description import ModelWeights, check_class_names, selected_class_ids
from resources.media.frame_converter import DOWNSCALE_FACTORS
from resources.media.frame_reader import Image

logger = logging.getLogger(__name__)

_PREFETCHED_IMAGES = 8
_MAX_LOADED_MODELS = 8  # each frame size has its own
_LETTERBOX_THREADS = min(4, (os.cpu_count() or 1) // 4)  # with few cores, the network needs all of them


@dataclass(frozen=True)
class Embedding:
    """The embedding of an image.

    Attributes:
        vector: float32 array of shape (n,) and length 1, by which images are compared.
        features: float16 array of shape (m,), by which probes tell images apart; None if the network has none.
    """

    vector: np.ndarray
    features: np.ndarray | None = None


class Detector:
    """A loaded model: weights, engine and thresholds.

    Attributes:
        selection: The model, its input size and settings, for which the engine was selected.
        model_id: Name and content hash of the weights.
        class_names: By class index.
        engine_name: The engine that runs the network.
        task: Task of the network, as Ultralytics names it.
        measurements: Measurements of the engine selection; empty if nothing was measured.
    """

    def __init__(
        self,
        selection: EngineSelection,
        engine: Engine,
        measurements: Sequence[EngineMeasurement] = (),
        *,
        accepts_any_size: bool = False,
    ) -> None:
        model = selection.model
        self._accepts_any_size = accepts_any_size and isinstance(selection.fit, Letterbox)
        self.model_id, self.class_names, self.engine_name = model.model_id, model.class_names, engine.name
        self.task, self.measurements = model.task, measurements
        self.selection, self._engine = selection, engine
        self._model, self._fit, self._settings = model, selection.fit, selection.settings
        self._class_ids = selected_class_ids(model, selection.settings)

    @property
    def accepts_tensors(self) -> bool:
        """Whether `detect` accepts images in the device's memory."""
        return isinstance(self._engine, TorchEngine) and isinstance(self._fit, Letterbox)

    @property
    def decoder_thread_count(self) -> int:
        """Number of threads that should decode frames for this detector; 0 means one per core."""
        # With two cores, the network needs both: several decoding threads slow it down more than they help.
        return 1 if (os.cpu_count() or 1) <= 2 else 0

    def downscale_factor(self, width_px: int, height_px: int) -> int:
        """Find the factor by which images may be downscaled before `detect` without changing the detections.

        Args:
            width_px: Width of the images.
            height_px: Height of the images.

        Returns:
            One of `DOWNSCALE_FACTORS`, or 1 if none of them gives exactly the letterbox's scaled size.
        """
        if not isinstance(self._fit, Letterbox):
            return 1
        scaled_px = (self._fit.scaled_width_px, self._fit.scaled_height_px)
        factors = (n for n in DOWNSCALE_FACTORS if (width_px, height_px) == (n * scaled_px[0], n * scaled_px[1]))
        return next(factors, 1)

    def detect(self, images: Iterable["Image | None"], size_px: tuple[int, int] | None = None) -> Iterator[Detections]:
        """Detect objects in images, in order; decoding, letterboxing and the network run concurrently.

        The images have one size, or any size if the detector was loaded for crops.

        Args:
            images: uint8 BGR arrays of shape (height_px, width_px, 3), or tensors on the device if `accepts_tensors`;
                None for an unchanged frame, which gets the detections of the frame before it. Consumed in a thread of
                its own; errors are raised here.
            size_px: Width and height of the images before they were downscaled, in whose pixels the detections are;
                None if they were not downscaled.

        Yields:
            The detections of each frame.
        """
        # By frame, in order: its size, or `_UNCHANGED` for a frame that the network does not process.
        frame_sizes: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

        def changed_images() -> Iterator[Image]:
            for image in images:
                if image is None:
                    frame_sizes.put(_UNCHANGED)
                    continue
                frame_sizes.put(size_px or (image.shape[1], image.shape[0]))
                yield image

        last_detections = _NO_DETECTIONS
        depth = max(_PREFETCHED_IMAGES, self._engine.batch)  # a whole batch is ready when the previous one is finished
        letterboxed = _map_in_order(self._letterbox, changed_images(), _LETTERBOX_THREADS)
        with closing(Prefetch(letterboxed, depth)) as source:
            for outputs in self._engine.infer(source):
                while (frame_size_px := frame_sizes.get()) == _UNCHANGED:
                    yield last_detections
                fit = self._fit_of(*frame_size_px)
                detections = read_detections(outputs, self._model, fit, self._settings, self._class_ids, *frame_size_px)
                last_detections = replace(detections, is_reused=True)
                yield detections
            while not frame_sizes.empty():
                frame_sizes.get()
                yield last_detections

    def embed(self, images: Iterable[np.ndarray]) -> Iterator[Embedding]:
        """Compute the embeddings of images, in order.

        Args:
            images: uint8 BGR arrays of shape (height_px, width_px, 3).
        """
        has_features = bundled_network(self._model.path) is not None and self._model.task == "embed"
        letterboxed = _map_in_order(self._letterbox, iter(images), _LETTERBOX_THREADS)
        with closing(Prefetch(letterboxed, max(_PREFETCHED_IMAGES, self._engine.batch))) as source:
            for outputs in self._engine.infer(source):
                vector = np.array(outputs[0], np.float32).ravel()  # a copy: the outputs are in the engine's memory
                features = np.array(outputs[1], np.float16).ravel() if has_features else None
                yield Embedding(vector / max(float(np.linalg.norm(vector)), 1e-12), features)

    def count_analysed_frames(self, frame_count: int) -> None:
        """Count analysed frames, which decide when the engines are measured; does nothing if they were."""
        if not self.measurements:
            self.selection.count_analysed_frames(frame_count)

    def _letterbox(self, image: Image) -> Image:
        if isinstance(image, np.ndarray):
            return self._fit_of(image.shape[1], image.shape[0]).apply(image)
        assert isinstance(self._fit, Letterbox)
        return retry_after_freeing_memory(functools.partial(letterbox_tensor, self._fit, image), image.device)

    def _fit_of(self, width_px: int, height_px: int) -> Letterbox | CentreCrop:
        """How an image of some size is resized to the network's input, which has the same size for all images."""
        if not self._accepts_any_size:
            return self._fit
        network = self._model.network
        is_stretched = network is not None and network.resize == "stretch"
        build = Letterbox.stretched if is_stretched else Letterbox.for_input_size
        return build(width_px, height_px, self._fit.input_width_px, self._fit.input_height_px)


_UNCHANGED = (0, 0)
_NO_DETECTIONS = Detections(
    np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), is_reused=True
)


class Models:
    """Loads detectors, and keeps them as long as this process runs.

    Args:
        cache_folder: Folder of compiled models; may be deleted at any time. None means this machine's own cache folder,
            because models that were compiled on one machine may not run on another that shares the data folder.
        watched_folders: Folders from which no weights are loaded, because weights are programs and these folders accept
            files from others.

    Attributes:
        step: What is being done to load a model, as what a person waits for.
        load_count: How often a model was loaded.
    """

    def __init__(self, cache_folder: Path | None = None, watched_folders: Sequence[Path] = ()) -> None:
        self._watched_folders = watched_folders
        self.cache_folder = cache_folder or user_cache_folder() / "models"
        self._detectors: dict[tuple[Any, ...], Detector] = {}  # the one used last is at the end
        self.load_count = 0
        self.step = "the model to be loaded"

    def detector(
        self,
        settings: DetectionSettings,
        width_px: int,
        height_px: int,
        device: str,
        footage: Footage | None = None,
        *,
        accepts_any_size: bool = False,
    ) -> Detector:
        """Return the detector for images of one size; load it the first time, and again when the engines are measured.

        Args:
            settings: Weights, engine and thresholds.
            width_px: Width of the images.
            height_px: Height of the images.
            device: The leased device, such as `cpu` or `cuda:0`.
            footage: The recording to analyse; the engines are measured on it if that is due. If None, they are not.
            accepts_any_size: Whether images may have other sizes, as crops have: each is resized to the same input.

        Raises:
            PipelineError: The weights are missing, damaged, of another task, or no engine can run them.
        """
        model = self.weights(settings)
        fit = choose_input_fit(model, width_px, height_px, settings.image_size_px)
        key = (model.content_hash, fit, device, settings.model_dump_json(), accepts_any_size)
        loaded = self._detectors.pop(key, None)
        if loaded is None:
            selection = EngineSelection(model, fit, settings, device, self.cache_folder, self._show_step)
        elif footage is not None and not loaded.measurements and loaded.selection.is_measuring_due(footage):
            selection = loaded.selection
        else:
            self._detectors[key] = loaded
            return loaded
        while len(self._detectors) >= _MAX_LOADED_MODELS:
            self._detectors.pop(next(iter(self._detectors)))  # the one whose last use is the longest ago
        self._detectors[key] = Detector(selection, *selection.select(footage), accepts_any_size=accepts_any_size)
        self.load_count += 1
        return self._detectors[key]

    def _show_step(self, step: str) -> None:
        self.step = step

    def weights(self, settings: DetectionSettings) -> ModelWeights:
        """Find the weights, download them if they are published by Ultralytics, and read their description.

        Raises:
            PipelineError: The weights are missing, damaged, of another task, or have an unknown head.
        """
        self._show_step(f"the weights {Path(settings.weights).name} to be read")
        return load_weights(settings, self.cache_folder, self._watched_folders)

    def export_in_background(self, all_settings: Sequence[DetectionSettings]) -> None:
        """Export models for OpenVINO, where that will run them, while this process does something else.

        The first run then neither exports them nor loads torch, which this process may have loaded for `check`.
        """

        def export() -> None:
            warnings.filterwarnings("ignore", module=r"(torch|ultralytics|openvino)\b")
            for settings in all_settings:
                try:
                    model = self.weights(settings)
                    if not model.is_exported and settings.engine != "torch" and available_devices(settings)[0] == "cpu":
                        export_network(model, self.cache_folder)
                except Exception as error:
                    # Exporters raise errors of many types; the run that needs the network reports them and uses torch.
                    logger.info("%s cannot be exported ahead: %s", settings.weights, summarize_exception(error))

        threading.Thread(target=export, name="export", daemon=True).start()

    def check(self, settings: DetectionSettings) -> None:
        """Check that weights, the names in `class_names` and device can be used.

        Raises:
            PipelineError: The weights, a class or the device cannot be used.
        """
        selected_class_ids(self.weights(settings), settings)
        available_devices(settings)

    def check_class_names(self, settings: DetectionSettings, names_by_key: Mapping[str, Collection[str]]) -> None:
        """Check that the model has some classes; does nothing if its weights are not on this machine any more.

        Args:
            settings: The model.
            names_by_key: Names of classes, by the key of the settings that contains them.

        Raises:
            PipelineError: The model has no class of one of the names.
        """
        if not any(names_by_key.values()) or find_weights(settings) is None:
            return
        model = self.weights(settings)
        for key, names in names_by_key.items():
            check_class_names(model, names, key)


def _map_in_order(
    function: Callable[[Image], Image], images: Iterator[Image], thread_count: int
) -> Generator[Image, None, None]:
    """Apply a function to images and yield the results in order, with threads a few images ahead.

    Tensors in a GPU's memory are processed in the calling thread: threads would only delay each other.

    Args:
        function: The function.
        images: The images.
        thread_count: 0 processes all images in the calling thread.
    """
    if thread_count == 0:
        yield from map(function, images)
        return
    futures: deque[Future[Image]] = deque()
    with ThreadPoolExecutor(thread_count, thread_name_prefix="letterbox") as pool:
        for image in images:
            if isinstance(image, np.ndarray):
                futures.append(pool.submit(function, image))
            else:
                futures.append(Future())
                futures[-1].set_result(function(image))
            if len(futures) > 2 * thread_count:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()
