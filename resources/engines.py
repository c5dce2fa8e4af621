"""What computes a network: OpenVINO on the CPU, torch on a GPU and as the reference everywhere.

Networks are compiled once per machine and kept in its cache folder, by the weights' content, OpenVINO's version, input
size and precision. torch, Ultralytics and OpenVINO are imported only when they are really needed: a network that lies
compiled in the cache is run without torch.
"""

import itertools
import logging
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from resources.postprocessing import Fit
from resources.quantization import quantized
from resources.weights import ModelWeights, load_yolo

logger = logging.getLogger(__name__)

Outputs = tuple[np.ndarray, ...]

_EXTRA_REQUESTS = 2  # waiting in OpenVINO's queue, so that none of its streams waits for Python
_MAX_BATCH = 64
_MEMORY_SHARE = 0.5  # of a GPU's free memory that batches may fill
_MAX_CANDIDATES = 1024  # anchors per picture that leave a GPU, those with the best class first


class Engine(Protocol):
    """Runs a network on fitted pictures, several in flight, answers in order."""

    name: str
    precision: str

    def infer(self, pictures: Iterable[np.ndarray]) -> Iterator[Outputs]:
        """The network's raw outputs per picture.

        Args:
            pictures: uint8 BGR arrays of shape (input_height_px, input_width_px, 3).

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
        self._request_count = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + _EXTRA_REQUESTS
        self.precision = precision
        self.name = f"openvino-{precision}-{fit.input_width_px}x{fit.input_height_px}"

    def infer(self, pictures: Iterable[np.ndarray]) -> Iterator[Outputs]:
        """See `Engine.infer`."""
        free = [self._compiled.create_infer_request() for _ in range(self._request_count)]
        running: deque[tuple[Any, np.ndarray]] = deque()
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
            exported = Path(load_yolo(copy).export(format="openvino", imgsz=size, verbose=False))
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
    """

    def __init__(self, model: ModelWeights, fit: Fit, device: str, precision: str) -> None:
        import torch

        self._device = torch.device(device)
        self._dtype = torch.float16 if precision == "f16" else torch.float32
        network = load_yolo(model.path).model
        self._network = network.fuse(verbose=False).eval().to(self._device, self._dtype)
        self._class_count = len(model.class_names)
        self._input_shape = (fit.input_height_px, fit.input_width_px, 3)
        self._batch = self._fitting_batch() if self._device.type == "cuda" else 1
        self.precision = precision
        self.name = f"torch-{precision}-{fit.input_width_px}x{fit.input_height_px}"

    def infer(self, pictures: Iterable[np.ndarray]) -> Iterator[Outputs]:
        """See `Engine.infer`."""
        source = iter(pictures)
        flying: deque[_Batch] = deque()
        # Two batches in flight, each on a stream of its own: one is copied while the other is computed.
        streams = itertools.cycle([self._stream(), self._stream()])
        while batch := list(itertools.islice(source, self._batch)):
            flying.append(self._start(batch, next(streams)))
            if len(flying) == 2:
                yield from self._finished(flying.popleft())
        while flying:
            yield from self._finished(flying.popleft())

    def _stream(self) -> Any:
        import torch

        return torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    def _start(self, pictures: list[np.ndarray], stream: Any) -> "_Batch":
        import torch

        try:
            if stream is None:
                with torch.inference_mode():
                    return _Batch(pictures, self._run(torch.from_numpy(np.stack(pictures)).to(self._device)), None)
            pinned = torch.empty((len(pictures), *self._input_shape), dtype=torch.uint8, pin_memory=True)
            np.stack(pictures, out=pinned.numpy())
            with torch.inference_mode(), torch.cuda.stream(stream):
                outputs = self._run(pinned.to(self._device, non_blocking=True))
                # Into pinned memory, or the copy would wait for everything before it.
                held = [torch.empty(out.shape, dtype=out.dtype, pin_memory=True) for out in outputs]
                for here, there in zip(held, outputs, strict=True):
                    here.copy_(there, non_blocking=True)
                done = torch.cuda.Event()
                done.record(stream)
            return _Batch(pictures, held, done, pinned)
        except torch.OutOfMemoryError:
            return _Batch(pictures, None, None)

    def _finished(self, batch: "_Batch") -> Iterator[Outputs]:
        if batch.outputs is None:
            yield from self._in_halves(batch.pictures)
            return
        if batch.done is not None:
            batch.done.synchronize()
        arrays = [output.cpu().numpy() for output in batch.outputs]
        for index in range(len(batch.pictures)):
            yield tuple(array[index] for array in arrays)

    def _in_halves(self, pictures: list[np.ndarray]) -> Iterator[Outputs]:
        """Run what did not fit into the GPU's memory again in smaller batches, and keep to their size."""
        import torch

        if len(pictures) == 1:
            raise MemoryError(f"{self._device} has no memory left for a single picture: free some, or use another.")
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            torch.cuda.empty_cache()
        half = len(pictures) // 2
        self._batch = min(self._batch, half)
        logger.warning("%s is out of memory: going on with batches of %d", self._device, self._batch)
        for begin in range(0, len(pictures), half):
            yield from self._finished(self._start(pictures[begin : begin + half], self._stream()))

    def _run(self, pictures: Any) -> list[Any]:
        """The network's outputs for uint8 pictures on the device, in float32 there."""
        pixels = pictures.flip(-1).permute(0, 3, 1, 2).to(self._dtype) / 255
        answer = self._network(pixels)
        # Ultralytics answers with the predictions, or with them and what they were made from.
        first = answer[0] if isinstance(answer, list | tuple) else answer
        outputs = [output.float() for output in (first if isinstance(first, list | tuple) else (first,))]
        if self._device.type == "cuda":
            outputs[0] = self._candidates(outputs[0])
        return outputs

    def _candidates(self, output: Any) -> Any:
        """Of (batch, values, anchors) the anchors that any threshold could keep, so that little leaves the GPU."""
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
        with torch.inference_mode():
            self._run(torch.zeros((2, *self._input_shape), dtype=torch.uint8, device=self._device))
        each_bytes = max(1, (torch.cuda.max_memory_allocated(self._device) - before) // 2)
        free_bytes = torch.cuda.mem_get_info(self._device)[0] * _MEMORY_SHARE
        return int(max(1, min(_MAX_BATCH, free_bytes // (2 * each_bytes))))  # two batches are in flight


class _Batch:
    """Pictures on their way through the GPU; `outputs` is None where its memory did not suffice."""

    def __init__(self, pictures: list[np.ndarray], outputs: list[Any] | None, done: Any, pinned: Any = None) -> None:
        self.pictures, self.outputs, self.done = pictures, outputs, done
        self._pinned = pinned  # must outlive the copy that reads it
