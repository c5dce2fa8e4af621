"""Detectors: the fastest engine of this machine that agrees, and the flow that keeps it busy.

A loaded detector stays loaded for as long as its process lives.
"""

import functools
import itertools
import json
import logging
import os
import queue
import re
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from resources.errors import PipelineError
from resources.footage import Picture
from resources.inference.agreement import SURE, FrameBoxes, agreement_of
from resources.inference.engines import (
    Engine,
    OpenVinoEngine,
    TensorRtEngine,
    TorchEngine,
    has_tensorrt,
    network_folder,
    openvino_precisions,
    processor_name,
)
from resources.inference.gpu_footage import fitted
from resources.inference.gpu_memory import is_out_of_memory, with_room
from resources.inference.postprocessing import CentreCrop, Found, Letterbox, fit_of, found_in
from resources.inference.prefetch import Prefetch
from resources.inference.weights import ModelWeights, find_weights, load_weights, wanted_classes
from resources.media.reading import SHRINKABLE
from resources.settings import DetectionSettings

logger = logging.getLogger(__name__)

Sample = Callable[[], Sequence[np.ndarray]]
"""Gives pictures of the footage at hand, uint8 BGR of shape (height_px, width_px, 3)."""

_PREFETCHED = 8
_FITTING_THREADS = min(4, (os.cpu_count() or 1) // 4)  # few cores have enough to do with the network
_MEASURE_S = 0.6
_WARM_UP = 4
_TENSORRT = "tensorrt"  # beside the precisions, a candidate for a GPU
_TO_BE_PROVEN = ("int8", _TENSORRT)
_ENOUGH_BOXES = 60  # fewer say too little about an engine to keep its measure
_FEW_BOXES = 150  # on fewer, what is to be proven must be twice as right
_ASKED_AGAIN = 4  # recordings of a process at most that are looked at for enough of them


@dataclass(frozen=True)
class MeasuredEngine:
    """What one engine did on this machine with pictures of the user's own footage; see `models` in the schema."""

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
        """Whether the engine finds the reference's boxes and no others, up to a share."""
        is_close_call = self.precision in _TO_BE_PROVEN and self.reference_box_count < _FEW_BOXES
        needed = (1 + min_agreement) / 2 if is_close_call else min_agreement
        return min(self.recall_iou50, self.precision_iou50) >= needed


class Detector:
    """A model ready to work: weights, engine and what its answers mean.

    Attributes:
        model_id: Name and content hash of the weights.
        class_names: By class index.
        engine_name: What computes the network.
        measured: What was measured to choose the engine; empty where nothing had to be chosen.
    """

    def __init__(
        self,
        model: ModelWeights,
        engine: Engine,
        fit: Letterbox | CentreCrop,
        settings: DetectionSettings,
        measured: Sequence[MeasuredEngine] = (),
    ) -> None:
        self.model_id, self.class_names, self.engine_name = model.model_id, model.class_names, engine.name
        self.task, self.measured = model.task, measured
        self._model, self._engine, self._fit, self._settings = model, engine, fit, settings
        self._wanted = wanted_classes(model, settings)

    @property
    def takes_tensors(self) -> bool:
        """Whether `detect` takes pictures that lie in the device's memory."""
        return isinstance(self._engine, TorchEngine) and isinstance(self._fit, Letterbox)

    @property
    def decoding_threads(self) -> int:
        """How many threads should decode for it; 0 means one for each core."""
        # Two cores are the network's: several threads that decode cost it more than they give.
        return 1 if (os.cpu_count() or 1) <= 2 else 0

    def shrunk_by(self, width_px: int, height_px: int) -> int:
        """How many times smaller pictures of one size may be made before they are given to it, with the same answers.

        Args:
            width_px: Width of the pictures.
            height_px: Height of the pictures.

        Returns:
            1, or one of `SHRINKABLE`.
        """
        if not isinstance(self._fit, Letterbox):
            return 1
        seen_px = (self._fit.scaled_width_px, self._fit.scaled_height_px)
        fitting = (n for n in SHRINKABLE if (width_px, height_px) == (n * seen_px[0], n * seen_px[1]))
        return next(fitting, 1)

    def detect(self, pictures: Iterable["Picture | None"], size_px: tuple[int, int] | None = None) -> Iterator[Found]:
        """Find objects in pictures of one size, in order; decoding, fitting and the network overlap.

        Args:
            pictures: uint8 BGR arrays of shape (height_px, width_px, 3), or tensors on the device where
                `takes_tensors`; None for one that looks like the last that is given. Consumed in a thread of their
                own. An error raised by them is raised here.
            size_px: Width and height of the pictures before they were shrunk, in whose pixels answers are told; None
                where they were not.

        Yields:
            One `Found` per picture.
        """
        # Per picture, in order: its size if the network sees it, 0 x 0 if it looks like the one that was seen last.
        plan: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()

        def to_be_seen() -> Iterator[Picture]:
            for picture in pictures:
                if picture is None:
                    plan.put(_REUSED)
                    continue
                plan.put(size_px or (picture.shape[1], picture.shape[0]))
                yield picture

        last = _NOTHING
        ahead = max(_PREFETCHED, self._engine.batch)  # a whole batch waits when the answers of the last are read
        with closing(Prefetch(_each(self._fitted, to_be_seen(), _FITTING_THREADS), ahead)) as source:
            for outputs in self._engine.infer(source):
                while (told_in := plan.get()) == _REUSED:
                    yield last
                found = found_in(outputs, self._model, self._fit, self._settings, self._wanted, *told_in)
                last = replace(found, is_reused=True)
                yield found
            while not plan.empty():
                plan.get()
                yield last

    def _fitted(self, picture: Picture) -> Picture:
        if isinstance(picture, np.ndarray):
            return self._fit.apply(picture)
        assert isinstance(self._fit, Letterbox)
        return with_room(functools.partial(fitted, self._fit, picture), picture.device)


_REUSED = (0, 0)
_NOTHING = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), is_reused=True)


class Models:
    """Loads detectors, and keeps them for as long as this process lives.

    Args:
        cache_folder: Where compiled models are kept; may be deleted at any time. None means this machine's own,
            because what is compiled for one machine may not run on another that shares the data folder.
    """

    def __init__(self, cache_folder: Path | None = None) -> None:
        self.cache_folder = cache_folder or _machine_cache_folder()
        self._detectors: dict[tuple[Any, ...], Detector] = {}
        # What was chosen without a measure, and how often one was tried.
        self._unproven: dict[tuple[Any, ...], tuple[_Choice, int]] = {}

    def detector(
        self, settings: DetectionSettings, width_px: int, height_px: int, device: str, sample: Sample | None = None
    ) -> Detector:
        """A detector for pictures of one size.

        Args:
            settings: Which weights, engine and thresholds.
            width_px: Width of the pictures.
            height_px: Height of the pictures.
            device: The leased device, such as `cpu` or `cuda:0`.
            sample: Gives pictures of the footage to choose the engine on, where that was not done before. Without
                one, the engine is the fastest that needs no choosing.

        Raises:
            PipelineError: The weights are missing, damaged, of another task, or no engine can run them.
        """
        model = self.weights(settings)
        fit = fit_of(model, width_px, height_px, settings.image_size_px)
        key = (model.content_hash, fit, device, settings.model_dump_json())
        new = _Choice(model, fit, settings, device, self.cache_folder), 0
        choice, tried = self._unproven.get(key, new)
        if key not in self._detectors or (sample is not None and 0 < tried < _ASKED_AGAIN):
            engine, measured = choice.make(sample)
            self._detectors[key] = Detector(model, engine, fit, settings, measured)
            self._unproven.pop(key, None)
            if choice.is_open and not measured:
                self._unproven[key] = choice, tried + 1
        return self._detectors[key]

    def weights(self, settings: DetectionSettings) -> ModelWeights:
        """Find the weights, fetching them if they may be, and read what they are.

        Raises:
            PipelineError: They are missing, damaged, of another task, or have a head that is not known here.
        """
        return load_weights(settings, self.cache_folder)

    def check(self, settings: DetectionSettings) -> None:
        """Prove that weights, classes and device can be used, before anything is started.

        Raises:
            PipelineError: They cannot, and why.
        """
        wanted_classes(self.weights(settings), settings)
        available_devices(settings)


@dataclass(frozen=True)
class _Choice:
    """Which engine runs a model on a device, for one input size."""

    model: ModelWeights
    fit: Letterbox | CentreCrop
    settings: DetectionSettings
    device: str
    cache_folder: Path

    def make(self, sample: Sample | None) -> tuple[Engine, Sequence[MeasuredEngine]]:
        """The engine to use, and what was measured on this machine to choose it."""
        if self.model.is_exported and (self.settings.engine == "torch" or self.device != "cpu"):
            raise PipelineError(
                f"The weights {self.model.path} are an exported network, which OpenVINO runs on the CPU: give the .pt "
                f"file for torch and for {self.device}, or set device: cpu and engine: auto."
            )
        try:
            candidates = self._candidates()
            if len(candidates) == 1:
                return self._engine(candidates[0], sample), ()
            measured = self._remembered() or (self._measure(candidates, sample) if sample else [])
            for _, engine in self._built(self._ranked(candidates, measured), None):
                return engine, measured
            if self.settings.engine == "openvino" or self.model.is_exported:
                return self._engine("f32", None), measured
            logger.warning("No faster engine can be used for %s: torch computes it.", self.model.model_id)
            return self._reference(), measured
        except PipelineError:
            raise
        except Exception as error:
            if self.settings.engine == "openvino" or self.model.is_exported:
                raise PipelineError(f"OpenVINO cannot run {self.model.path}: {error}") from error
            if self._uses_torch:
                raise
            # Any weights that torch can run are served; the slower engine is named in every row.
            logger.warning("OpenVINO cannot run %s, using torch: %s", self.model.path, error)
            return TorchEngine(self.model, self.fit, self.device, "f32"), ()

    @property
    def is_open(self) -> bool:
        """Whether there is more than one engine to choose from."""
        return len(self._candidates()) > 1

    @property
    def _uses_torch(self) -> bool:
        return self.settings.engine == "torch" or (self.settings.engine == "auto" and self.device != "cpu")

    def _candidates(self) -> list[str]:
        """What may be used here: precisions, and TensorRT; the fastest that needs no measuring last."""
        on_gpu = self.device.startswith("cuda")
        possible = (("f32", "f16") if on_gpu else ("f32",)) if self._uses_torch else openvino_precisions()
        if self.settings.precision == "auto":
            if on_gpu and self.settings.engine == "auto" and has_tensorrt():
                return [_TENSORRT, *possible]
            return list(possible)
        if self.settings.precision not in possible:
            raise PipelineError(
                f"precision: {self.settings.precision} cannot be computed on {self.device} here; "
                f"possible are auto, {', '.join(possible)}."
            )
        return [self.settings.precision]

    @functools.cached_property
    def _quick(self) -> Engine:
        """The fastest engine that needs no choosing; loaded once, however many recordings are asked."""
        return self._engine(self._ranked(self._candidates(), [])[0], None)

    def _engine(self, candidate: str, sample: Sample | None) -> Engine:
        if candidate == _TENSORRT:
            return TensorRtEngine(self.model, self.fit, self.device, self.cache_folder)
        if self._uses_torch:
            return TorchEngine(self.model, self.fit, self.device, candidate)
        pictures = None if sample is None else lambda: [self.fit.apply(picture) for picture in sample()]
        return OpenVinoEngine(self.model, self.fit, candidate, self.cache_folder, pictures)

    def _built(self, candidates: Iterable[str], sample: Sample | None) -> Iterator[tuple[str, Engine]]:
        """The engines of those candidates that can be built and loaded here, one after the other."""
        for candidate in candidates:
            try:
                is_quick = [candidate] == self._ranked(self._candidates(), [])
                yield candidate, self._quick if is_quick else self._engine(candidate, sample)
            except PipelineError:
                raise
            except Exception as error:
                # A driver or a package too old or too new fails in a way of its own; another engine does the work.
                told = " ".join(str(error).split())[:300] or type(error).__name__
                logger.warning("%s cannot be used for %s: %s", candidate, self.model.model_id, told)

    def _ranked(self, candidates: Sequence[str], measured: Sequence[MeasuredEngine]) -> list[str]:
        """Which candidates to try, best first: those that agree by their speed, then the reference's own precision.

        Without a measure, the last that needs neither calibrating nor building. Where not even the reference's
        precision agrees it is left out, too.
        """
        if not measured:
            return [[name for name in candidates if name not in _TO_BE_PROVEN][-1]]
        trusted = [m for m in measured if m.precision in candidates and m.agrees(self.settings.min_agreement)]
        ranked = [m.precision for m in sorted(trusted, key=lambda m: -m.frames_per_s)]
        return ranked if any(m.precision == "f32" for m in measured) else [*ranked, "f32"]

    @property
    def _folder(self) -> Path:
        if not self._uses_torch:
            return network_folder(self.model, self.fit, self.cache_folder)
        import torch

        size = f"{self.fit.input_width_px}x{self.fit.input_height_px}"
        return self.cache_folder / self.model.content_hash / f"torch-{torch.__version__}-{size}"

    @property
    def _measures_file(self) -> Path:
        # cuda:0 may be another GPU tomorrow, and a home on the network may serve several processors.
        device = re.sub(r"\W+", "-", device_name(self.device))
        # Another choice, as when TensorRT has been installed since, is measured anew.
        return self._folder / f"measured-{device}-{'-'.join(self._candidates())}.json"

    def _remembered(self) -> list[MeasuredEngine]:
        """What was measured before, unless the network that was measured is gone."""
        try:
            measured = [MeasuredEngine(**values) for values in json.loads(self._measures_file.read_text())]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            logger.info("%s cannot be read (%s): it is measured again.", self._measures_file, type(error).__name__)
            return []
        is_gone = any(m.precision == "int8" for m in measured) and not (self._folder / "int8.xml").exists()
        return [] if is_gone else measured

    def _measure(self, candidates: Sequence[str], sample: Sample) -> list[MeasuredEngine]:
        """Measure every candidate on the user's own footage; half of it calibrates int8, the other half judges.

        Where there is next to nothing to be found, nothing is calibrated or proven: the next recording is asked again.
        """
        pictures = list(sample())
        calibrating, judging = pictures[0::2], pictures[1::2]
        fitted = [self.fit.apply(picture) for picture in judging]
        enough = len(judging) // 2 if self.model.task == "classify" else _ENOUGH_BOXES
        quick = self._quick
        if sum(int((one.confidence >= SURE).sum()) for one in self._boxes(quick, fitted, judging)) < max(1, enough):
            return []
        reference = self._reference()
        engines = {quick.precision: quick}
        if self._uses_torch:
            engines[reference.precision] = reference
        engines |= dict(self._built([name for name in candidates if name not in engines], lambda: calibrating))
        truth = self._boxes(reference, fitted, judging)
        found = {name: agreement_of(truth, self._boxes(engine, fitted, judging)) for name, engine in engines.items()}
        # Twice in turn and the better of both, so that another program's busy second decides nothing.
        speeds = [{name: _frames_per_s(engine, fitted) for name, engine in engines.items()} for _ in range(2)]
        measured = [
            MeasuredEngine(
                engine.name,
                name,
                max(speed[name] for speed in speeds),
                len(fitted),
                reference.name,
                found[name].reference_count,
                found[name].recall,
                found[name].precision,
                found[name].recall_iou90,
                found[name].precision_iou90,
                found[name].confidence_shift,
            )
            for name, engine in engines.items()
        ]
        for engine in measured:
            if not engine.agrees(self.settings.min_agreement):
                logger.warning(
                    "%s is not used for %s: it finds %.3f of the reference's boxes, and %.3f of its own are there.",
                    engine.engine_name, self.model.model_id, engine.recall_iou50, engine.precision_iou50,
                )  # fmt: skip
        self._remember(measured)
        return measured

    def _reference(self) -> Engine:
        """What Ultralytics itself would find: torch in f32; for exported networks, OpenVINO in f32."""
        if self.model.is_exported:
            return OpenVinoEngine(self.model, self.fit, "f32", self.cache_folder)
        return TorchEngine(self.model, self.fit, self.device, "f32")

    def _boxes(self, engine: Engine, fitted: list[np.ndarray], pictures: list[np.ndarray]) -> list[FrameBoxes]:
        wanted = wanted_classes(self.model, self.settings)
        boxes = []
        for outputs, picture in zip(engine.infer(fitted), pictures, strict=True):
            size = picture.shape[1], picture.shape[0]
            found = found_in(outputs, self.model, self.fit, self.settings, wanted, *size)
            boxes.append(FrameBoxes(found.xyxy, found.confidence, found.class_id))
        return boxes

    def _remember(self, measured: list[MeasuredEngine]) -> None:
        partial = self._measures_file.with_suffix(f".{os.getpid()}")
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps([asdict(engine) for engine in measured], indent=1))
        partial.replace(self._measures_file)


def _frames_per_s(engine: Engine, fitted: Sequence[np.ndarray]) -> float:
    """Speed of an engine in full flow, from the answers of one batch to those of a later one."""
    answered_at: list[float] = []
    batch = engine.batch
    first = -(-max(_WARM_UP, engine.in_flight) // batch) * batch
    last = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal last
        for picture in itertools.cycle(fitted):
            last = (len(answered_at) - 1) // batch * batch
            if last > first and answered_at[last] - answered_at[first] > _MEASURE_S:
                return
            yield picture

    for _ in engine.infer(endless()):
        answered_at.append(time.monotonic())
    return (last - first) / (answered_at[last] - answered_at[first])


def lock_name(device: str) -> str:
    """What tells a device from all others of this machine: `cuda:0` is another GPU for whoever sees only some."""
    if not device.startswith("cuda"):
        return device
    import torch

    return f"gpu-{torch.cuda.get_device_properties(device).uuid}"


def device_name(device: str) -> str:
    """The product name of a device such as `cpu` or `cuda:0`."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    return processor_name() if device == "cpu" else device


def _machine_cache_folder() -> Path:
    named = os.environ.get("XDG_CACHE_HOME")
    return (Path(named) if named else Path.home() / ".cache") / "cv-assets" / "models"


def available_devices(settings: DetectionSettings) -> list[str]:
    """The devices that the settings allow on this machine, best first.

    Raises:
        PipelineError: The settings name a device that is not here.
    """
    if settings.device != "auto":
        if settings.engine == "openvino" and settings.device != "cpu":
            raise PipelineError(
                f"detections.engine is openvino, which works on the CPU here, and detections.device is "
                f"{settings.device}: say device: cpu, or engine: auto."
            )
        if settings.device != "cpu" and not _has_device(settings.device):
            raise PipelineError(
                f"detections.device is {settings.device}, and torch finds no such device that works on this machine: "
                "say auto or cpu, or mend the driver."
            )
        return [settings.device]
    path = find_weights(settings)
    if settings.engine == "openvino" or (path is not None and path.suffix != ".pt"):
        return ["cpu"]
    # Asking torch costs its import; a machine without the driver's device files has no NVIDIA GPU to ask for.
    if Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists():
        import torch

        if torch.cuda.is_available():
            working = [name for name in (f"cuda:{n}" for n in range(torch.cuda.device_count())) if _works(name)]
            if working:
                return working
    import platform

    if platform.system() == "Darwin":
        import torch

        if torch.backends.mps.is_available():
            return ["mps"]
    return ["cpu"]


@functools.cache
def _works(device: str) -> bool:
    """Whether torch computes on a GPU that is there: it may be of a kind that this torch was not built for."""
    import torch

    try:
        return bool((torch.ones(1, device=device) + 1).item() == 2)
    except RuntimeError as error:
        if is_out_of_memory(error):
            return True  # others use it now
        logger.warning("%s is not used: torch cannot compute on it: %s", device, " ".join(str(error).split())[:300])
        return False


def _has_device(device: str) -> bool:
    import torch

    if device == "mps":
        return bool(torch.backends.mps.is_available())
    is_there = bool(torch.cuda.is_available()) and int(device.partition(":")[2]) < torch.cuda.device_count()
    return is_there and _works(device)


def _each(
    work: Callable[[Picture], Picture], items: Iterator[Picture], thread_count: int
) -> Generator[Picture, None, None]:
    """The work's answers in the order of the items, a few threads ahead; without threads, one after the other.

    What lies in a GPU's memory is worked on there: threads would only get in each other's way.
    """
    if thread_count == 0:
        yield from map(work, items)
        return
    waiting: deque[Future[Picture]] = deque()
    with ThreadPoolExecutor(thread_count, thread_name_prefix="fit") as pool:
        for item in items:
            if isinstance(item, np.ndarray):
                waiting.append(pool.submit(work, item))
            else:
                waiting.append(Future())
                waiting[-1].set_result(work(item))
            if len(waiting) > 2 * thread_count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
