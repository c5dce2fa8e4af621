"""OpenVINO on the CPU: networks are compiled once per machine and kept in its cache folder."""

import shutil
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from resources.inference.engines.engine import Outputs, ReadSampleImages
from resources.inference.letterbox import InputFit
from resources.inference.plain_networks import has_batch_axis, reshape_input
from resources.inference.quantization import quantize
from resources.inference.weights_description import ModelWeights, load_yolo
from resources.media.frame_reader import Image

_EXTRA_REQUESTS = 2  # waiting in OpenVINO's queue, so that none of its streams waits for Python
_EXPORT_SIZE_PX = 640  # of the image with which the network is traced; the exported network accepts any size
_MIN_DYNAMIC_PIXELS = 128 * 128  # heads without NMS have 300 outputs when traced, and need an anchor for each
EXPORT_WITH_NMS = False  # Ultralytics then exports heads that need no NMS as they are; other heads output all boxes


class OpenVinoEngine:
    """OpenVINO on the CPU: static shape, preprocessing in the graph, several requests in flight.

    Args:
        model: The weights.
        fit: Resizing to the network's input; only the input size is used.
        precision: f32, bf16 or int8.
        cache_folder: Folder of compiled networks.
        read_calibration_images: Reads letterboxed images to calibrate int8 on; called only if there is no calibrated
            network in the cache folder.
    """

    def __init__(
        self,
        model: ModelWeights,
        fit: InputFit,
        precision: str,
        cache_folder: Path,
        read_calibration_images: ReadSampleImages | None = None,
    ) -> None:
        import openvino

        folder = network_folder(model, fit, cache_folder)
        core = openvino.Core()
        float_precision = "bf16" if "bf16" in openvino_precisions() else "f32"
        network = (
            _int8_network(model, fit, cache_folder, read_calibration_images)
            if precision == "int8"
            else _add_preprocessing(_float_network(model, fit, cache_folder), model)
        )
        self._compiled = core.compile_model(
            network,
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": float_precision if precision == "int8" else precision,
                "CACHE_DIR": str(folder / "compiled"),
            },
        )
        self.batch = 1
        self.in_flight = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS") + _EXTRA_REQUESTS
        self.precision = precision
        self.name = f"openvino-{precision}-{fit.input_width_px}x{fit.input_height_px}"

    def infer(self, images: Iterable[Image]) -> Iterator[Outputs]:
        """See `Engine.infer`."""
        free_requests = [self._compiled.create_infer_request() for _ in range(self.in_flight)]
        running: deque[tuple[Any, Image]] = deque()
        has_batch_axes = [has_batch_axis(output) for output in self._compiled.outputs]

        def wait_for_oldest() -> tuple[Any, Outputs]:
            request, _ = running.popleft()
            request.wait()
            arrays = (request.get_output_tensor(index).data for index in range(len(has_batch_axes)))
            return request, tuple(
                array[0] if has_batch else array for array, has_batch in zip(arrays, has_batch_axes, strict=True)
            )

        try:
            for image in images:
                if not free_requests:
                    request, outputs = wait_for_oldest()
                    yield outputs  # they are in the request's memory, which may be reused only after the caller resumes
                    free_requests.append(request)
                request = free_requests.pop()
                request.start_async({0: image[None]}, share_inputs=True)
                running.append((request, image))  # the image must outlive the request that reads it
            while running:
                yield wait_for_oldest()[1]
        finally:
            for request, _ in running:
                request.wait()


def openvino_precisions() -> tuple[str, ...]:
    """Precisions that OpenVINO computes natively on this processor."""
    import openvino

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    # OpenVINO lists bf16 only if the processor has instructions for it (AMX, AVX-512 BF16): then it is twice as fast.
    return ("f32", *(name for name in ("bf16", "int8") if name.upper() in capabilities))


def processor_name() -> str:
    """Name of the processor, as OpenVINO reports it."""
    import openvino

    return str(openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")).strip()


def network_folder(model: ModelWeights, fit: InputFit, cache_folder: Path) -> Path:
    """Folder of everything that is derived from weights for one input size."""
    folder = _any_size_folder(model, cache_folder)
    return folder.with_name(f"{folder.name}-{fit.input_width_px}x{fit.input_height_px}")


def _any_size_folder(model: ModelWeights, cache_folder: Path) -> Path:
    import openvino

    return cache_folder / model.content_hash / f"openvino-{openvino.__version__.split('-')[0]}"


def export_network(model: ModelWeights, cache_folder: Path) -> Path:
    """Export weights as a network for images of any size; done once per machine, because it imports torch.

    Returns:
        The .xml file of the network.
    """
    file = _any_size_folder(model, cache_folder) / "model.xml"
    _export(model, file, imgsz=_EXPORT_SIZE_PX, dynamic=True)
    return file


def _export(model: ModelWeights, file: Path, **options: Any) -> None:
    """Export weights with Ultralytics into a .xml file, unless it exists."""
    import openvino

    if file.exists():
        return
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch, "model.pt")  # the exporter writes next to the weights: not into the user's folder
        shutil.copyfile(model.path, copy)
        yolo = load_yolo(copy)
        export_path = Path(yolo.export(format="openvino", nms=EXPORT_WITH_NMS, verbose=False, **options))
        _save_network(openvino.Core().read_model(next(export_path.glob("*.xml"))), file)


def _float_network(model: ModelWeights, fit: InputFit, cache_folder: Path) -> Any:
    """Read the network for one image of one size; Ultralytics exports it the first time."""
    import openvino

    size = (fit.input_height_px, fit.input_width_px)
    if model.is_exported:
        file = model.path
    elif fit.input_height_px * fit.input_width_px >= _MIN_DYNAMIC_PIXELS:
        file = export_network(model, cache_folder)
    else:
        file = network_folder(model, fit, cache_folder) / "model.xml"
        _export(model, file, imgsz=size)
    network = openvino.Core().read_model(file)
    reshape_input(network, model, fit.input_width_px, fit.input_height_px)
    return network


def _int8_network(
    model: ModelWeights, fit: InputFit, cache_folder: Path, read_calibration_images: ReadSampleImages | None
) -> Any:
    import openvino

    file = network_folder(model, fit, cache_folder) / "int8.xml"
    if not file.exists():
        if read_calibration_images is None:
            raise ValueError("The precision int8 must be calibrated on images, and there are none.")
        network = _add_preprocessing(_float_network(model, fit, cache_folder), model)
        _save_network(quantize(network, read_calibration_images()), file)
    return openvino.Core().read_model(file)


def _save_network(network: Any, file: Path) -> None:
    """Save a network so that no other process reads a part of it: first its .bin, last its .xml."""
    import openvino

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        partial = Path(folder, file.name)
        openvino.save_model(network, partial, compress_to_fp16=False)
        partial.with_suffix(".bin").replace(file.with_suffix(".bin"))
        partial.replace(file)


def _add_preprocessing(network: Any, model: ModelWeights) -> Any:
    """Add preprocessing to a network, so that its input is a uint8 BGR image as it was decoded."""
    import openvino
    from openvino.preprocess import ColorFormat, PrePostProcessor

    plain = model.network
    steps = PrePostProcessor(network)
    steps.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    steps.input().tensor().set_color_format(ColorFormat.BGR)
    image = steps.input().preprocess().convert_element_type(openvino.Type.f32)
    if plain is None or plain.colors == "rgb":
        image.convert_color(ColorFormat.RGB)
    if plain is None:
        image.scale(255.0)
    else:
        image.mean(list(plain.mean)).scale(list(plain.std))
    steps.input().model().set_layout(openvino.Layout("NHWC" if model.is_channels_last else "NCHW"))
    return steps.build()
