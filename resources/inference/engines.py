"""What computes a network: OpenVINO on the CPU, torch or TensorRT on a GPU, torch as the reference everywhere.

Networks are compiled once per machine and kept in its cache folder, by the weights' content, OpenVINO's version, input
size and precision. torch, Ultralytics and OpenVINO are imported only when they are really needed: a network that lies
compiled in the cache is run without torch.
"""

import importlib.util
import itertools
import logging
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resources.errors import PipelineError
from resources.footage import Picture
from resources.inference.gpu_memory import is_out_of_memory, make_room, no_memory
from resources.inference.postprocessing import Fit
from resources.inference.quantization import quantized
from resources.inference.weights import ModelWeights, load_yolo

logger = logging.getLogger(__name__)

Outputs = tuple[np.ndarray, ...]

_EXTRA_REQUESTS = 2  # waiting in OpenVINO's queue, so that none of its streams waits for Python
_MAX_BATCH = 32
_SUPPRESSION = False  # as Ultralytics' exporter takes it: heads that need none are exported, others give all boxes
_BATCHES_IN_FLIGHT = 2  # one is copied while the other is computed
_TENSORRT_BATCH = 16  # its engines are built for one size of batch
_TENSORRT_NEEDS = ("onnx",)
_MEMORY_SHARE = 0.5  # of a GPU's free memory that batches may fill
_MAX_CANDIDATES = 1024  # anchors per picture that leave a GPU, those with the best class first


class Engine(Protocol):
    """Runs a network on fitted pictures, several in flight, answers in order.

    Attributes:
        name: What computes it, in which precision, for which input.
        precision: f32, bf16, int8 or f16.
        batch: Pictures that are computed together, and whose answers come together.
    """

    name: str
    precision: str
    batch: int

    @property
    def in_flight(self) -> int:
        """How many pictures are taken before the first answer comes."""

    def infer(self, pictures: Iterable[Picture]) -> Iterator[Outputs]:
        """The network's raw outputs per picture.

        Args:
            pictures: uint8 BGR arrays of shape (input_height_px, input_width_px, 3); torch's engines also take
                tensors in their device's memory.

        Yields:
            float32 arrays without the batch axis; only to be read until the next picture's are asked for.
        """
        ...


class OpenVinoEngine:
    """OpenVINO on the CPU: static shape, preprocessing in the graph, several requests in flight.

    Args:
        model: The weights.
        fit: The input's size.
        precision: f32, bf16 or int8.
        cache_folder: Where networks are kept.
        sample: Gives fitted pictures to calibrate int8 on; only asked where that was not done before.
    """

    def __init__(
        self,
        model: ModelWeights,
        fit: Fit,
        precision: str,
        cache_folder: Path,
        sample: Callable[[], Sequence[np.ndarray]] | None = None,
    ) -> None:
        import openvino

        folder = network_folder(model, fit, cache_folder)
        core = openvino.Core()
        floating = "bf16" if "bf16" in openvino_precisions() else "f32"
        network = (
            _eight_bit_network(model, fit, folder, sample)
            if precision == "int8"
            else _with_preprocessing(_float_network(model, fit, folder), fit)
        )
        self._compiled = core.compile_model(
            network,
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": floating if precision == "int8" else precision,
                "CACHE_DIR": str(folder / "compiled"),
            },
        )
        self.batch = 1
        self.in_flight = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + _EXTRA_REQUESTS
        self.precision = precision
        self.name = f"openvino-{precision}-{fit.input_width_px}x{fit.input_height_px}"

    def infer(self, pictures: Iterable[Picture]) -> Iterator[Outputs]:
        """See `Engine.infer`."""
        free = [self._compiled.create_infer_request() for _ in range(self.in_flight)]
        running: deque[tuple[Any, Picture]] = deque()
        output_count = len(self._compiled.outputs)

        def oldest() -> tuple[Any, Outputs]:
            request, _ = running.popleft()
            request.wait()
            return request, tuple(request.get_output_tensor(index).data[0] for index in range(output_count))

        try:
            for picture in pictures:
                if not free:
                    request, outputs = oldest()
                    yield outputs  # its memory is the request's: used again only when the caller has come back
                    free.append(request)
                request = free.pop()
                request.start_async({0: picture[None]}, share_inputs=True)
                running.append((request, picture))  # the picture must outlive the request that reads it
            while running:
                yield oldest()[1]
        finally:
            for request, _ in running:
                request.wait()


def openvino_precisions() -> tuple[str, ...]:
    """What OpenVINO computes natively on this processor."""
    import openvino

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    # OpenVINO names bf16 only where the processor computes with it (AMX, AVX-512 BF16): there it is twice as fast.
    return ("f32", *(name for name in ("bf16", "int8") if name.upper() in capabilities))


def processor_name() -> str:
    """The processor as OpenVINO names it."""
    import openvino

    return str(openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")).strip()


def network_folder(model: ModelWeights, fit: Fit, cache_folder: Path) -> Path:
    """Where everything made from weights for one input size is kept."""
    import openvino

    version = openvino.__version__.split("-")[0]
    return cache_folder / model.content_hash / f"openvino-{version}-{fit.input_width_px}x{fit.input_height_px}"


def _float_network(model: ModelWeights, fit: Fit, folder: Path) -> Any:
    """The network as exported, for one picture of one size; made by Ultralytics the first time."""
    import openvino

    core = openvino.Core()
    if model.is_exported:
        network = core.read_model(model.path)
        network.reshape([1, 3, fit.input_height_px, fit.input_width_px])
        return network
    if not (folder / "model.xml").exists():
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch, "model.pt")  # the exporter writes beside the weights, which are not ours to touch
            shutil.copyfile(model.path, copy)
            size = (fit.input_height_px, fit.input_width_px)
            exported = Path(load_yolo(copy).export(format="openvino", imgsz=size, nms=_SUPPRESSION, verbose=False))
            _keep(core.read_model(next(exported.glob("*.xml"))), folder / "model.xml")
    return core.read_model(folder / "model.xml")


def _eight_bit_network(
    model: ModelWeights, fit: Fit, folder: Path, sample: Callable[[], Sequence[np.ndarray]] | None
) -> Any:
    import openvino

    file = folder / "int8.xml"
    if not file.exists():
        if sample is None:
            raise ValueError("int8 must be calibrated on pictures, and none were given.")
        network = _with_preprocessing(_float_network(model, fit, folder), fit)
        _keep(quantized(network, sample()), file)
    return openvino.Core().read_model(file)


def _keep(network: Any, file: Path) -> None:
    """Save a network so that no other process ever sees half of it: its .bin first, its .xml last."""
    import openvino

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        partial = Path(folder, file.name)
        openvino.save_model(network, partial, compress_to_fp16=False)
        partial.with_suffix(".bin").replace(file.with_suffix(".bin"))
        partial.replace(file)


def _with_preprocessing(network: Any, fit: Fit) -> Any:
    """The network with an input of uint8 BGR pictures, as they are decoded."""
    import openvino
    from openvino.preprocess import ColorFormat, PrePostProcessor

    steps = PrePostProcessor(network)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().tensor().set_color_format(ColorFormat.BGR)
    steps.input().preprocess().convert_element_type(openvino.Type.f32).convert_color(ColorFormat.RGB).scale(255.0)
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    return steps.build()


class TorchEngine:
    """torch: on a GPU in batches, copies overlapped with computing; on the CPU the reference, picture by picture.

    Args:
        model: The weights, a .pt file.
        fit: The input's size.
        device: As torch names it, such as `cuda:0`.
        precision: f32 or f16.

    Raises:
        PipelineError: The GPU has no memory left for a picture.
    """

    def __init__(self, model: ModelWeights, fit: Fit, device: str, precision: str) -> None:
        import torch

        self.precision = precision
        self.name = f"torch-{precision}-{fit.input_width_px}x{fit.input_height_px}"
        self._begin(model, fit, device, torch.float16 if precision == "f16" else torch.float32)
        try:
            network = load_yolo(model.path).model.fuse(verbose=False).eval().to(self._device, self._dtype)
            # The order of a decoded picture's bytes, and that in which a GPU multiplies halves fastest.
            self._network = network.to(memory_format=torch.channels_last) if self._on_gpu else network
            self.batch = self._fitting_batch() if self._on_gpu else 1
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise PipelineError(no_memory(self._device)) from error
            raise

    def _begin(self, model: ModelWeights, fit: Fit, device: str, dtype: Any) -> None:
        import torch

        self._device, self._dtype = torch.device(device), dtype
        self._on_gpu = self._device.type == "cuda"
        self._class_count = len(model.class_names)
        self._input_shape = (fit.input_height_px, fit.input_width_px, 3)
        # All computing is done on one stream, in order: networks keep memory between calls. Copies have their own.
        if self._on_gpu:
            self._copying, self._computing = torch.cuda.Stream(self._device), torch.cuda.Stream(self._device)

    @property
    def in_flight(self) -> int:
        """See `Engine`."""
        return _BATCHES_IN_FLIGHT * self.batch

    def infer(self, pictures: Iterable[Picture]) -> Iterator[Outputs]:
        """See `Engine.infer`."""
        source = iter(pictures)
        flying: deque[_Batch] = deque()
        while batch := list(itertools.islice(source, self.batch)):
            flying.append(self._start(batch))
            if len(flying) == _BATCHES_IN_FLIGHT:
                yield from self._finished(flying.popleft())
        while flying:
            yield from self._finished(flying.popleft())

    def _start(self, pictures: list[Picture]) -> "_Batch":
        import torch

        try:
            with torch.inference_mode():
                if self._on_gpu:
                    return self._started(pictures)
                there = torch.stack([torch.as_tensor(one) for one in pictures]).to(self._device)
                return _Batch(pictures, self._run(there))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return _Batch(pictures, None)

    def _started(self, pictures: list[Picture]) -> "_Batch":
        import torch

        with torch.cuda.device(self._device):
            if isinstance(pictures[0], np.ndarray):
                pinned = torch.empty((len(pictures), *self._input_shape), dtype=torch.uint8, pin_memory=True)
                np.stack(pictures, out=pinned.numpy())
                with torch.cuda.stream(self._copying):
                    there = pinned.to(self._device, non_blocking=True)
                self._computing.wait_stream(self._copying)
                lent = [pinned, there]
            else:
                # Made on the default stream, by threads that are ahead of this one.
                self._computing.wait_stream(torch.cuda.default_stream(self._device))
                with torch.cuda.stream(self._computing):
                    there = torch.stack(pictures)
                lent = [*pictures, there]
            with torch.cuda.stream(self._computing):
                outputs = self._run(there)
                # Into pinned memory, or this thread would wait for the copy.
                held = [torch.empty(out.shape, dtype=out.dtype, pin_memory=True) for out in outputs]
                for here, output in zip(held, outputs, strict=True):
                    here.copy_(output, non_blocking=True)
                done = torch.cuda.Event()
                done.record(self._computing)
        return _Batch(pictures, held, done, lent)

    def _finished(self, batch: "_Batch") -> Iterator[Outputs]:
        if batch.outputs is None:
            yield from self._in_halves(batch.pictures)
            return
        if batch.done is not None:
            batch.done.synchronize()
        arrays = [output.cpu().numpy() for output in batch.outputs]
        for index in range(len(batch.pictures)):
            yield tuple(array[index] for array in arrays)

    def _in_halves(self, pictures: list[Picture]) -> Iterator[Outputs]:
        """Run what did not fit into the GPU's memory again in smaller batches, and keep to their size."""
        if len(pictures) == 1:
            raise PipelineError(no_memory(self._device))
        make_room(self._device)
        self.batch = min(self.batch, (len(pictures) + 1) // 2)
        logger.warning("%s is out of memory: going on with batches of %d", self._device, self.batch)
        rest = pictures
        while rest:
            part, rest = rest[: self.batch], rest[self.batch :]  # which may have become smaller again
            yield from self._finished(self._start(part))

    def _run(self, pictures: Any) -> list[Any]:
        """The network's outputs for uint8 pictures on the device, in float32 there."""
        pixels = pictures.flip(-1).permute(0, 3, 1, 2).to(self._dtype) / 255
        outputs = [output.float() for output in self._answer(pixels)]
        if self._on_gpu:
            outputs[0] = self._candidates(outputs[0])
        return outputs

    def _answer(self, pixels: Any) -> Sequence[Any]:
        answer = self._network(pixels)
        # Ultralytics answers with the predictions, or with them and what they were made from.
        first = answer[0] if isinstance(answer, list | tuple) else answer
        return first if isinstance(first, list | tuple) else (first,)

    def _candidates(self, output: Any) -> Any:
        """Of (batch, values, anchors) the anchors with the best class, so that little leaves the GPU."""
        if output.ndim != 3 or output.shape[2] <= _MAX_CANDIDATES or output.shape[1] < 4 + self._class_count:
            return output
        best = output[:, 4 : 4 + self._class_count].amax(dim=1)
        chosen = best.topk(_MAX_CANDIDATES, dim=1).indices
        return output.gather(2, chosen[:, None].expand(-1, output.shape[1], -1))

    def _fitting_batch(self) -> int:
        """How many pictures fit into a share of the GPU's free memory, judged by what two need."""
        import torch

        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        with torch.inference_mode(), torch.cuda.device(self._device):
            self._run(torch.zeros((2, *self._input_shape), dtype=torch.uint8, device=self._device))
            torch.cuda.synchronize(self._device)  # the weights are there before another stream reads them
        each_bytes = max(1, (torch.cuda.max_memory_allocated(self._device) - before) // 2)
        make_room(self._device)  # what torch keeps for later counts as taken otherwise
        free_bytes = torch.cuda.mem_get_info(self._device)[0] * _MEMORY_SHARE
        return int(max(1, min(_MAX_BATCH, free_bytes // (_BATCHES_IN_FLIGHT * each_bytes))))


class TensorRtEngine(TorchEngine):
    """TensorRT in half precision, built and run by Ultralytics; for NVIDIA GPUs where its package is installed.

    Args:
        model: The weights, a .pt file.
        fit: The input's size.
        device: As torch names it, such as `cuda:0`.
        cache_folder: Where engines are kept.
    """

    def __init__(self, model: ModelWeights, fit: Fit, device: str, cache_folder: Path) -> None:
        import torch
        from ultralytics.nn.autobackend import AutoBackend

        self.precision = "f16"
        self.name = f"tensorrt-f16-{fit.input_width_px}x{fit.input_height_px}"
        self._begin(model, fit, device, torch.float16)
        file = _tensorrt_file(model, fit, self._device, cache_folder)
        self.batch = _TENSORRT_BATCH
        try:
            self._network = AutoBackend(str(file), device=self._device, fp16=True, verbose=False).eval()
            # It computes in halves, but may take and give floats: without a graph its memory is read as it is.
            self._dtype = torch.float16 if self._network.backend.fp16 else torch.float32
            with torch.inference_mode(), torch.cuda.device(self._device):
                self._run(torch.zeros((1, *self._input_shape), dtype=torch.uint8, device=self._device))
                torch.cuda.synchronize(self._device)
        except Exception as error:
            if not is_out_of_memory(error):
                file.unlink(missing_ok=True)  # damaged, or of another driver: built again the next time
            raise

    def _answer(self, pixels: Any) -> Sequence[Any]:
        import torch

        if self._network.backend.graph is None:
            # Then it is run on a stream of TensorRT's own choice, which knows nothing of ours.
            torch.cuda.current_stream(self._device).synchronize()
        answer = self._network(pixels.contiguous())
        return answer if isinstance(answer, list | tuple) else (answer,)


def has_tensorrt() -> bool:
    """Whether what builds and runs TensorRT engines is installed: its package and those of Ultralytics' exporter."""
    if importlib.util.find_spec("tensorrt") is None:
        return False
    lacking = [name for name in _TENSORRT_NEEDS if importlib.util.find_spec(name) is None]
    if lacking:
        logger.warning("TensorRT is installed, but building its engines needs %s, too.", " and ".join(lacking))
    return not lacking


def _tensorrt_file(model: ModelWeights, fit: Fit, device: Any, cache_folder: Path) -> Path:
    """The engine for one kind of GPU, built by Ultralytics the first time, which takes minutes."""
    import tensorrt
    import torch

    gpu = torch.cuda.get_device_name(device).replace(" ", "-").replace("/", "-")
    size = f"{fit.input_width_px}x{fit.input_height_px}"
    folder = cache_folder / model.content_hash / f"tensorrt-{tensorrt.__version__}-{gpu}-{size}"
    file = folder / "model.engine"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        logger.info("Building a TensorRT engine of %s for %s, which takes some minutes", model.model_id, gpu)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            copy = Path(scratch, "model.pt")  # the exporter writes beside the weights, which are not ours to touch
            shutil.copyfile(model.path, copy)
            made = load_yolo(copy).export(
                format="engine",
                imgsz=(fit.input_height_px, fit.input_width_px),
                quantize=16,
                nms=_SUPPRESSION,
                batch=_TENSORRT_BATCH,
                device=device.index or 0,
                verbose=False,
            )
            Path(made).replace(file)
    return file


@dataclass(frozen=True)
class _Batch:
    """Pictures on their way through the GPU.

    Attributes:
        pictures: The pictures.
        outputs: The network's outputs, complete once `done` has happened; None where the memory did not suffice.
        done: The event that says so; None where there is nothing to wait for.
        lent: What the GPU reads until then.
    """

    pictures: list[Picture]
    outputs: list[Any] | None
    done: Any = None
    lent: Any = None
