"""TensorRT in half precision on NVIDIA GPUs, built by Ultralytics where its package is installed."""

import importlib.util
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resources.inference.engines.openvino_engine import EXPORT_WITH_NMS
from resources.inference.engines.torch_engine import TorchEngine
from resources.inference.gpu_memory import is_out_of_memory
from resources.inference.letterbox import InputFit
from resources.inference.weights_description import ModelWeights, load_yolo

logger = logging.getLogger(__name__)
_BATCH = 16  # a TensorRT engine is built for one batch size
_EXPORTER_PACKAGES = ("onnx",)


class TensorRtEngine(TorchEngine):
    """TensorRT in half precision, built and run by Ultralytics, on NVIDIA GPUs where its package is installed.

    Args:
        model: The weights, a .pt file.
        fit: Resizing to the network's input; only the input size is used.
        device: As torch names it, such as `cuda:0`.
        cache_folder: Folder of TensorRT engines.
    """

    def __init__(self, model: ModelWeights, fit: InputFit, device: str, cache_folder: Path) -> None:
        import torch
        from ultralytics.nn.autobackend import AutoBackend

        self.precision = "f16"
        self.name = f"tensorrt-f16-{fit.input_width_px}x{fit.input_height_px}"
        self._set_up(model, fit, device, torch.float16)
        file = _build_engine_file(model, fit, self._device, cache_folder)
        self.batch = _BATCH
        try:
            self._network = AutoBackend(str(file), device=self._device, fp16=True, verbose=False).eval()
            # The network computes in f16, but its inputs and outputs may be f32: with the wrong type and without a
            # graph, its memory would be misread.
            self._dtype = torch.float16 if self._network.backend.fp16 else torch.float32
            with torch.inference_mode(), torch.cuda.device(self._device):
                self._run(torch.zeros((1, *self._input_shape), dtype=torch.uint8, device=self._device))
                torch.cuda.synchronize(self._device)
        except Exception as error:
            if not is_out_of_memory(error):
                file.unlink(missing_ok=True)  # damaged, or built for another driver: rebuilt the next time
            raise

    def _forward(self, pixels: Any) -> Sequence[Any]:
        import torch

        if self._network.backend.graph is None:
            # Without a graph, TensorRT uses a stream of its own, which is not synchronized with ours.
            torch.cuda.current_stream(self._device).synchronize()
        outputs = self._network(pixels.contiguous())
        return outputs if isinstance(outputs, list | tuple) else (outputs,)


def has_tensorrt() -> bool:
    """Whether TensorRT and the packages that Ultralytics' exporter needs to build its engines are installed."""
    if importlib.util.find_spec("tensorrt") is None:
        return False
    missing_packages = [name for name in _EXPORTER_PACKAGES if importlib.util.find_spec(name) is None]
    if missing_packages:
        logger.warning("TensorRT is installed, but building its engines also needs %s.", " and ".join(missing_packages))
    return not missing_packages


def _build_engine_file(model: ModelWeights, fit: InputFit, device: Any, cache_folder: Path) -> Path:
    """Return the TensorRT engine for one kind of GPU; Ultralytics builds it the first time, which takes minutes."""
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
            copy = Path(scratch, "model.pt")  # the exporter writes next to the weights: not into the user's folder
            shutil.copyfile(model.path, copy)
            export_path = load_yolo(copy).export(
                format="engine",
                imgsz=(fit.input_height_px, fit.input_width_px),
                quantize=16,
                nms=EXPORT_WITH_NMS,
                batch=_BATCH,
                device=device.index or 0,
                verbose=False,
            )
            Path(export_path).replace(file)
    return file
