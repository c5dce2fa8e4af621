"""From weights to boxes: engines that run a detector, and the flow that keeps one busy.

Weights are compiled once per machine and kept in its cache folder; a loaded detector stays loaded for as long as its
process lives. torch, Ultralytics, OpenVINO and OpenCV are imported only when a model is really needed.
"""

import functools
import hashlib
import json
import logging
import os
import queue
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resources.errors import PipelineError
from resources.settings import PROJECT_ROOT, DetectionSettings

logger = logging.getLogger(__name__)

# This product makes no call to the outside: no analytics, no update checks, no installing of packages at run time.
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("YOLO_AUTOINSTALL", "false")
os.environ.setdefault("YOLO_VERBOSE", "false")

_STRIDE_PX = 32
_PADDING_GREY = 114
_CLASS_OFFSET_PX = 7680.0  # moves the boxes of different classes apart, so that one pass of NMS serves all classes


@dataclass(frozen=True)
class Boxes:
    """The boxes of one picture, best first.

    Attributes:
        xyxy: float32 array of shape (n, 4), corners in pixels of the picture.
        confidence: float32 array of shape (n,).
        class_id: int32 array of shape (n,).
    """

    xyxy: np.ndarray
    confidence: np.ndarray
    class_id: np.ndarray

    def __len__(self) -> int:
        return len(self.confidence)


@dataclass(frozen=True)
class Letterbox:
    """How a picture is fitted into the model's input, and boxes back into the picture.

    The same fit as Ultralytics' `LetterBox(auto=True)`: scaled to the longer side, padded to a multiple of the stride.
    """

    input_width_px: int
    input_height_px: int
    scaled_width_px: int
    scaled_height_px: int
    left_px: int
    top_px: int
    scale: float

    @classmethod
    def of(cls, width_px: int, height_px: int, image_size_px: int) -> "Letterbox":
        """The fit of a picture into an input whose longer side is `image_size_px`."""
        scale = min(image_size_px / width_px, image_size_px / height_px)
        scaled_width, scaled_height = round(width_px * scale), round(height_px * scale)
        pad_x = (image_size_px - scaled_width) % _STRIDE_PX / 2
        pad_y = (image_size_px - scaled_height) % _STRIDE_PX / 2
        left, right = round(pad_x - 0.1), round(pad_x + 0.1)
        top, bottom = round(pad_y - 0.1), round(pad_y + 0.1)
        return cls(
            scaled_width + left + right, scaled_height + top + bottom, scaled_width, scaled_height, left, top, scale
        )

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Fit a uint8 picture of shape (height_px, width_px, 3); the result has the input's height and width."""
        import cv2

        size = (self.scaled_width_px, self.scaled_height_px)
        if picture.shape[1::-1] != size:
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
        if picture.shape[1::-1] == (self.input_width_px, self.input_height_px):
            return picture
        fitted = np.full((self.input_height_px, self.input_width_px, 3), _PADDING_GREY, np.uint8)
        top, left = self.top_px, self.left_px
        fitted[top : top + self.scaled_height_px, left : left + self.scaled_width_px] = picture
        return fitted

    def back(self, xyxy: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
        """Corners of shape (n, 4) in input pixels, as corners in the picture, clipped to it."""
        moved = (xyxy - np.array([self.left_px, self.top_px] * 2, np.float32)) / np.float32(self.scale)
        return np.clip(moved, 0, np.array([width_px, height_px] * 2, np.float32))


class Engine(Protocol):
    """Runs a network on fitted pictures, several in flight, answers in order."""

    name: str

    def infer(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The network's raw output per picture.

        Args:
            pictures: uint8 BGR arrays of shape (input_height_px, input_width_px, 3).

        Yields:
            float32 arrays of shape (4 + classes, anchors), or (boxes, 6) from networks that need no NMS.
        """
        ...


class Detector:
    """A detection model ready to work: weights, engine and what its answers mean."""

    def __init__(
        self, model: "ModelWeights", engine: Engine, letterbox: Letterbox, settings: DetectionSettings
    ) -> None:
        self.model_id, self.class_names, self.engine_name = model.model_id, model.class_names, engine.name
        self._engine, self._letterbox, self._settings = engine, letterbox, settings
        self._wanted = _wanted_classes(model, settings)

    def detect(self, pictures: Iterable[np.ndarray]) -> Iterator[Boxes]:
        """Find boxes in pictures of one size, in order; decoding, fitting and the network overlap.

        Args:
            pictures: uint8 BGR arrays of shape (height_px, width_px, 3), consumed in a thread of their own. An error
                raised by them is raised here.

        Yields:
            One `Boxes` per picture.
        """
        sizes: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

        def fitted() -> Iterator[np.ndarray]:
            for picture in pictures:
                sizes.put((picture.shape[1], picture.shape[0]))
                yield self._letterbox.apply(picture)

        with _Prefetch(fitted(), depth=8) as source:
            for output in self._engine.infer(source):
                width_px, height_px = sizes.get()
                yield self._boxes(output, width_px, height_px)

    def _boxes(self, output: np.ndarray, width_px: int, height_px: int) -> Boxes:
        found = decode_output(output, len(self.class_names), self._settings, self._wanted)
        return Boxes(self._letterbox.back(found.xyxy, width_px, height_px), found.confidence, found.class_id)


def decode_output(
    output: np.ndarray, class_count: int, settings: DetectionSettings, wanted: np.ndarray | None = None
) -> Boxes:
    """The boxes in a network's raw output, in input pixels, best first.

    Args:
        output: float32, (4 + class_count, anchors) with centre, size and class scores; or (boxes, 6) with corners,
            confidence and class from networks that need no NMS.
        class_count: Number of classes of the model.
        settings: Thresholds.
        wanted: Class indices to keep, shape (k,); None keeps all.

    Raises:
        PipelineError: The output has neither shape.
    """
    if output.ndim == 2 and output.shape[1] == 6 and output.shape[0] != 4 + class_count:
        rows = output[output[:, 4] > settings.min_confidence]
        xyxy, confidence, class_id = rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int32)
        needs_nms = False
    elif output.ndim == 2 and output.shape[0] == 4 + class_count:
        scores = output[4:]
        best = scores.max(axis=0)
        candidates = np.flatnonzero(best > settings.min_confidence)
        confidence = best[candidates]
        class_id = scores[:, candidates].argmax(axis=0).astype(np.int32)
        centre, half = output[:2, candidates].T, output[2:4, candidates].T / 2
        xyxy = np.concatenate([centre - half, centre + half], axis=1)
        needs_nms = True
    else:
        raise PipelineError(
            f"The model's output has the shape {output.shape}, not that of a detector of {class_count} classes."
        )
    if wanted is not None:
        kept = np.isin(class_id, wanted)
        xyxy, confidence, class_id = xyxy[kept], confidence[kept], class_id[kept]
    order = np.argsort(-confidence, kind="stable")
    xyxy, confidence, class_id = xyxy[order], confidence[order], class_id[order]
    if needs_nms and len(confidence):
        kept = _nms(xyxy + (class_id * _CLASS_OFFSET_PX)[:, None].astype(np.float32), settings.nms_iou)
        xyxy, confidence, class_id = xyxy[kept], confidence[kept], class_id[kept]
    limit = settings.max_per_frame
    return Boxes(xyxy[:limit], confidence[:limit], class_id[:limit])


def _nms(xyxy: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression of boxes that are sorted best first.

    Args:
        xyxy: Corners, shape (n, 4).
        iou_threshold: A box overlapping a better one by more than this is dropped.

    Returns:
        Ascending indices of the boxes that stay.
    """
    count = len(xyxy)
    area = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1])
    alive = np.ones(count, bool)
    for index in range(count - 1):
        if not alive[index]:
            continue
        rest = slice(index + 1, count)
        overlap = np.minimum(xyxy[index, 2:], xyxy[rest, 2:]) - np.maximum(xyxy[index, :2], xyxy[rest, :2])
        shared = overlap[:, 0].clip(0) * overlap[:, 1].clip(0)
        alive[rest] &= shared <= iou_threshold * (area[index] + area[rest] - shared)
    return np.flatnonzero(alive)


@dataclass(frozen=True)
class ModelWeights:
    """Weights that were found, and what is known of them without running them."""

    path: Path
    content_hash: str
    class_names: dict[int, str]
    image_size_px: int

    @property
    def model_id(self) -> str:
        """Readable name and content hash: the same weights have the same id anywhere."""
        return f"{self.path.stem}-{self.content_hash[:8]}"


def find_weights(settings: DetectionSettings) -> Path | None:
    """The weights file of the settings: a path, or a name in the project's weights/; None if it is not there."""
    named = Path(settings.weights).expanduser()
    for candidate in (named, PROJECT_ROOT / named, PROJECT_ROOT / "weights" / named.name):
        if candidate.is_file():
            return candidate.resolve()
    return None


def detection_version(settings: DetectionSettings) -> tuple[DetectionSettings | str, ...]:
    """What decides which boxes are found: the settings but for the device, and the content of the weights.

    Weights that are not here yet count by their name.
    """
    path = find_weights(settings)
    if path is None:
        return (settings.model_copy(update={"device": ""}),)
    content = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    return settings.model_copy(update={"device": "", "weights": ""}), content


def may_be_fetched(settings: DetectionSettings) -> bool:
    """Whether the settings name weights that Ultralytics publishes, by their bare name."""
    import re

    return re.fullmatch(r"yolo(v?\d+)[nsmlxbtce](u|6u)?\.pt", settings.weights) is not None


def check_weights(settings: DetectionSettings) -> None:
    """Cheap refusal of weights that cannot work, without importing torch.

    Raises:
        PipelineError: They are not there and cannot be fetched, or are not a PyTorch weights file.
    """
    path = find_weights(settings)
    if path is None and Path(settings.weights).expanduser().is_dir():
        raise PipelineError(f"The weights {settings.weights!r} are a folder: name the .pt file in it.")
    if path is None:
        if may_be_fetched(settings):
            return
        raise PipelineError(_missing_weights(settings))
    if path.suffix != ".pt":
        raise PipelineError(f"The weights {path} are not a .pt file of Ultralytics.")
    if not zipfile.is_zipfile(path):
        raise PipelineError(
            f"The weights {path} are not a PyTorch file ({path.stat().st_size} bytes): fetch or copy them again."
        )


def _missing_weights(settings: DetectionSettings, reason: str = "") -> str:
    if may_be_fetched(settings):
        target = PROJECT_ROOT / "weights" / settings.weights
        return (
            f"The weights {settings.weights} are not on this machine and could not be fetched{reason}: "
            f"put the file at {target}, or name another with detections.weights or --weights."
        )
    return (
        f"The weights {settings.weights} do not exist: give the path of a .pt file "
        "with detections.weights or --weights."
    )


def _fetched_weights(settings: DetectionSettings) -> Path:
    """Let Ultralytics fetch weights that it publishes, into the project's weights/.

    Raises:
        PipelineError: There is no network, or the file cannot be had.
    """
    target = PROJECT_ROOT / "weights" / settings.weights
    logger.info("Fetching %s from Ultralytics", settings.weights)
    target.parent.mkdir(exist_ok=True)
    from ultralytics.utils import downloads

    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            url = f"https://github.com/{downloads.GITHUB_ASSETS_REPO}/releases/download/v8.4.0/{settings.weights}"
            downloads.safe_download(url, file=settings.weights, dir=folder, retry=0, progress=False, min_bytes=1e5)
            Path(folder, settings.weights).replace(target)
    except Exception as error:
        # Whatever the library raises (no route, no such file, proxy), the way out for the user is the same.
        logger.info("Fetching %s failed: %s", settings.weights, error)
        raise PipelineError(_missing_weights(settings, f" ({type(error).__name__})")) from error
    return target


class Models:
    """Loads detectors, and keeps them for as long as this process lives.

    Args:
        cache_folder: Where compiled models are kept; may be deleted at any time. None means this machine's own,
            because what is compiled for one machine may not run on another that shares the data folder.
    """

    def __init__(self, cache_folder: Path | None = None) -> None:
        self.cache_folder = cache_folder or _machine_cache_folder()
        self._detectors: dict[tuple[Any, ...], Detector] = {}

    def detector(self, settings: DetectionSettings, width_px: int, height_px: int, device: str) -> Detector:
        """A detector for pictures of one size.

        Args:
            settings: Which weights, engine and thresholds.
            width_px: Width of the pictures.
            height_px: Height of the pictures.
            device: The leased device, such as `cpu` or `cuda:0`.

        Raises:
            PipelineError: The weights are missing, damaged, of another task, or no engine can run them.
        """
        model = self.weights(settings)
        letterbox = Letterbox.of(width_px, height_px, settings.image_size_px or model.image_size_px)
        key = (model.content_hash, letterbox, device, settings.engine, settings.model_dump_json())
        if key not in self._detectors:
            engine = self._engine(model, letterbox, settings, device)
            self._detectors[key] = Detector(model, engine, letterbox, settings)
        return self._detectors[key]

    def weights(self, settings: DetectionSettings) -> ModelWeights:
        """Find the weights, fetching them if they may be, and read what they are.

        Raises:
            PipelineError: They are missing, damaged or of another task than detection.
        """
        check_weights(settings)
        path = find_weights(settings) or _fetched_weights(settings)
        return _described(path, path.stat().st_mtime_ns, self.cache_folder)

    def check(self, settings: DetectionSettings) -> None:
        """Prove that weights, classes and device can be used, before anything is started.

        Raises:
            PipelineError: They cannot, and why.
        """
        _wanted_classes(self.weights(settings), settings)
        available_devices(settings)

    def _engine(self, model: ModelWeights, letterbox: Letterbox, settings: DetectionSettings, device: str) -> Engine:
        wants_openvino = settings.engine == "openvino" or (settings.engine == "auto" and device == "cpu")
        if not wants_openvino:
            return TorchEngine(model, letterbox, device)
        try:
            return OpenVinoEngine(model, letterbox, self.cache_folder)
        except PipelineError:
            raise
        except Exception as error:
            if settings.engine == "openvino":
                raise PipelineError(f"OpenVINO cannot run {model.path}: {error}") from error
            # Any weights that torch can run are served; the slower engine is named in every row.
            logger.warning("OpenVINO cannot run %s, using torch: %s", model.path, error)
            return TorchEngine(model, letterbox, device)


def _machine_cache_folder() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "cv-assets" / "models"


def available_devices(settings: DetectionSettings) -> list[str]:
    """The devices that the settings allow on this machine, best first.

    Raises:
        PipelineError: The settings name a device that is not here.
    """
    if settings.device != "auto":
        if settings.device != "cpu" and not _has_device(settings.device):
            raise PipelineError(
                f"detections.device is {settings.device}, and torch finds no such device on this machine: "
                "say auto or cpu, or mend the driver."
            )
        return [settings.device]
    if settings.engine == "openvino":
        return ["cpu"]
    # Asking torch costs its import; a machine without the driver's device files has no NVIDIA GPU to ask for.
    if Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists():
        import torch

        if torch.cuda.is_available():
            return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    import platform

    if platform.system() == "Darwin":
        import torch

        if torch.backends.mps.is_available():
            return ["mps"]
    return ["cpu"]


def _has_device(device: str) -> bool:
    import torch

    if device == "mps":
        return bool(torch.backends.mps.is_available())
    return bool(torch.cuda.is_available()) and int(device.partition(":")[2]) < torch.cuda.device_count()


def _load_yolo(path: Path) -> Any:
    """The Ultralytics model of a weights file.

    Raises:
        PipelineError: The file is damaged, or of another task than detection.
    """
    from ultralytics import YOLO

    try:
        yolo = YOLO(path, verbose=False)
    except Exception as error:
        # Unpickling foreign weights fails in as many ways as there are files; the remedy is the same.
        raise PipelineError(f"The weights {path} cannot be loaded by Ultralytics: {error}") from error
    if yolo.task != "detect":
        raise PipelineError(f"The weights {path} are of the task '{yolo.task}', and detections need 'detect'.")
    return yolo


@functools.lru_cache(maxsize=8)
def _described(path: Path, mtime_ns: int, cache_folder: Path) -> ModelWeights:
    """What a weights file holds; remembered on disk, so that torch need not be imported to read it again."""
    content_hash = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    remembered = cache_folder / content_hash / "model.json"
    if not remembered.exists():
        yolo = _load_yolo(path)
        names = {int(index): str(name) for index, name in yolo.names.items()}
        size = yolo.overrides.get("imgsz") or getattr(yolo.model, "args", {}).get("imgsz") or 640
        size_px = max(size) if isinstance(size, list | tuple) else int(size)
        remembered.parent.mkdir(parents=True, exist_ok=True)
        partial = remembered.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"class_names": names, "image_size_px": size_px}))
        partial.replace(remembered)
    held = json.loads(remembered.read_text())
    names = {int(index): name for index, name in held["class_names"].items()}
    return ModelWeights(path, content_hash, names, held["image_size_px"])


def _wanted_classes(model: ModelWeights, settings: DetectionSettings) -> np.ndarray | None:
    if settings.class_names is None:
        return None
    by_name = {name: index for index, name in model.class_names.items()}
    if unknown := [name for name in settings.class_names if name not in by_name]:
        raise PipelineError(
            f"detections.class_names: {model.model_id} knows no class {unknown[0]!r}; it knows "
            f"{', '.join(sorted(by_name))}."
        )
    return np.array([by_name[name] for name in settings.class_names])


class OpenVinoEngine:
    """OpenVINO on the CPU: static shape, preprocessing in the graph, several requests in flight."""

    def __init__(self, model: ModelWeights, letterbox: Letterbox, cache_folder: Path) -> None:
        import openvino as ov
        from openvino.preprocess import ColorFormat, PrePostProcessor

        height, width = letterbox.input_height_px, letterbox.input_width_px
        exported = _openvino_export(model, width, height, cache_folder)
        core = ov.Core()
        network = core.read_model(exported)
        steps = PrePostProcessor(network)
        steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        steps.input().tensor().set_color_format(ColorFormat.BGR)
        steps.input().preprocess().convert_element_type(ov.Type.f32).convert_color(ColorFormat.RGB).scale(255.0)
        steps.input().model().set_layout(ov.Layout("NCHW"))
        # OpenVINO names bf16 only where the processor computes with it (AMX, AVX-512 BF16): there it is twice as fast.
        precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
        self._compiled = core.compile_model(
            steps.build(),
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": precision,
                "CACHE_DIR": str(exported.parent / "compiled"),
            },
        )
        self._request_count = max(2, self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self.name = f"openvino-{precision}-{width}x{height}"

    def infer(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """See `Engine.infer`."""
        requests = [self._compiled.create_infer_request() for _ in range(self._request_count)]
        free = list(requests)
        running: list[tuple[Any, np.ndarray]] = []
        try:
            for picture in pictures:
                if not free:
                    yield self._answer(running, free)
                request = free.pop()
                request.start_async({0: picture[None]}, share_inputs=True)
                running.append((request, picture))  # the picture must outlive the request that reads it
            while running:
                yield self._answer(running, free)
        finally:
            for request, _ in running:
                request.wait()

    @staticmethod
    def _answer(running: list[Any], free: list[Any]) -> np.ndarray:
        request, _ = running.pop(0)
        request.wait()
        output = np.array(request.get_output_tensor(0).data[0])
        free.append(request)
        return output


class TorchEngine:
    """torch on a GPU (half precision) or, as the reference, on the CPU (single precision)."""

    def __init__(self, model: ModelWeights, letterbox: Letterbox, device: str) -> None:
        import torch

        yolo = _load_yolo(model.path)
        self._device = torch.device(device)
        is_half = self._device.type == "cuda"
        self._dtype = torch.float16 if is_half else torch.float32
        self._network = yolo.model.fuse(verbose=False).eval().to(self._device, self._dtype)
        self._batch = 16 if is_half else 1
        self.name = f"torch-{'f16' if is_half else 'f32'}-{letterbox.input_width_px}x{letterbox.input_height_px}"

    def infer(self, pictures: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """See `Engine.infer`."""
        batch: list[np.ndarray] = []
        for picture in pictures:
            batch.append(picture)
            if len(batch) == self._batch:
                yield from self._run(batch)
                batch = []
        if batch:
            yield from self._run(batch)

    def _run(self, batch: list[np.ndarray]) -> Iterator[np.ndarray]:
        import torch

        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(batch)).to(self._device)
            pixels = pixels.flip(-1).permute(0, 3, 1, 2).to(self._dtype) / 255
            output = self._network(pixels)
            output = output[0] if isinstance(output, list | tuple) else output
            yield from output.float().cpu().numpy()


def _openvino_export(model: ModelWeights, width_px: int, height_px: int, cache_folder: Path) -> Path:
    """The OpenVINO model for one input size, exported by Ultralytics the first time and kept."""
    import openvino as ov

    version = ov.__version__.split("-")[0]
    kept = cache_folder / model.content_hash / f"openvino-{version}-{width_px}x{height_px}"
    if not (kept / "model.xml").exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            copy = Path(folder, "model.pt")  # the exporter writes beside the weights, which are not ours to touch
            shutil.copyfile(model.path, copy)
            yolo = _load_yolo(copy)
            exported = Path(yolo.export(format="openvino", imgsz=(height_px, width_px), verbose=False))
            finished = Path(folder, "finished")
            finished.mkdir()
            for file in exported.glob("*"):
                if file.suffix in (".xml", ".bin"):
                    file.rename(finished / f"model{file.suffix}")
            try:
                finished.rename(kept)
            except OSError:
                if not (kept / "model.xml").exists():  # unless another process finished the same export first
                    raise
    return kept / "model.xml"


class _Prefetch:
    """Runs an iterator in a thread, a few items ahead; its error is raised where the items are consumed."""

    _END = object()

    def __init__(self, source: Iterator[np.ndarray], depth: int) -> None:
        self._items: queue.Queue[object] = queue.Queue(maxsize=depth)
        self._source, self._stopped = source, threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def __enter__(self) -> Iterator[np.ndarray]:
        self._filling = self._pool.submit(self._fill)
        return self._drain()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=True)

    def _fill(self) -> None:
        try:
            for item in self._source:
                if not self._put(item):
                    return
        finally:
            self._put(self._END)

    def _put(self, item: object) -> bool:
        while not self._stopped.is_set():
            try:
                self._items.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _drain(self) -> Iterator[np.ndarray]:
        while (item := self._items.get()) is not self._END:
            assert isinstance(item, np.ndarray)
            yield item
        self._filling.result()
