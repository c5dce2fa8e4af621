"""torch: in batches on a GPU, image by image on a CPU, where it is the reference."""

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resources.errors import PipelineError
from resources.inference.engines.engine import Outputs
from resources.inference.gpu_memory import free_cached_memory, is_out_of_memory, out_of_memory_message
from resources.inference.letterbox import InputFit
from resources.inference.weights_description import ModelWeights, load_yolo
from resources.media.frame_reader import Image

logger = logging.getLogger(__name__)
_MAX_BATCH = 32
_BATCHES_IN_FLIGHT = 2  # one is copied while the other is computed
_MEMORY_SHARE = 0.5  # of a GPU's free memory that batches may fill
_MAX_ANCHORS = 1024  # per image that are copied from a GPU: those with the highest class scores


class TorchEngine:
    """torch: on a GPU in batches, with copies and computing overlapped; on the CPU image by image, as the reference.

    Args:
        model: The weights, a .pt file.
        fit: Resizing to the network's input; only the input size is used.
        device: As torch names it, such as `cuda:0`.
        precision: f32 or f16.

    Raises:
        PipelineError: The GPU has no memory left for an image.
    """

    def __init__(self, model: ModelWeights, fit: InputFit, device: str, precision: str) -> None:
        import torch

        self.precision = precision
        self.name = f"torch-{precision}-{fit.input_width_px}x{fit.input_height_px}"
        self._set_up(model, fit, device, torch.float16 if precision == "f16" else torch.float32)
        try:
            network = load_yolo(model.path).model.fuse(verbose=False).eval().to(self._device, self._dtype)
            # Channels last is the byte order of a decoded image, and the fastest one for f16 convolutions on a GPU.
            self._network = network.to(memory_format=torch.channels_last) if self._on_gpu else network
            self.batch = self._find_batch_size() if self._on_gpu else 1
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise PipelineError(out_of_memory_message(self._device)) from error
            raise

    def _set_up(self, model: ModelWeights, fit: InputFit, device: str, dtype: Any) -> None:
        import torch

        self._device, self._dtype = torch.device(device), dtype
        self._on_gpu = self._device.type == "cuda"
        self._class_count = len(model.class_names)
        self._input_shape = (fit.input_height_px, fit.input_width_px, 3)
        # All computing runs on one stream, in order, because networks keep memory between calls. Copies have their own.
        if self._on_gpu:
            self._copy_stream, self._compute_stream = torch.cuda.Stream(self._device), torch.cuda.Stream(self._device)

    @property
    def in_flight(self) -> int:
        """See `Engine`."""
        return _BATCHES_IN_FLIGHT * self.batch

    def infer(self, images: Iterable[Image]) -> Iterator[Outputs]:
        """See `Engine.infer`."""
        source = iter(images)
        batches: deque[_Batch] = deque()
        while batch_images := list(itertools.islice(source, self.batch)):
            batches.append(self._submit(batch_images))
            if len(batches) == _BATCHES_IN_FLIGHT:
                yield from self._collect(batches.popleft())
        while batches:
            yield from self._collect(batches.popleft())

    def _submit(self, images: list[Image]) -> "_Batch":
        """Start computing a batch; on the CPU, compute it."""
        import torch

        try:
            with torch.inference_mode():
                if self._on_gpu:
                    return self._submit_to_gpu(images)
                stacked = torch.stack([torch.as_tensor(image) for image in images]).to(self._device)
                return _Batch(images, self._run(stacked))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return _Batch(images, None)

    def _submit_to_gpu(self, images: list[Image]) -> "_Batch":
        import torch

        with torch.cuda.device(self._device):
            if isinstance(images[0], np.ndarray):
                pinned = torch.empty((len(images), *self._input_shape), dtype=torch.uint8, pin_memory=True)
                np.stack(images, out=pinned.numpy())
                with torch.cuda.stream(self._copy_stream):
                    stacked = pinned.to(self._device, non_blocking=True)
                self._compute_stream.wait_stream(self._copy_stream)
                inputs = [pinned, stacked]
            else:
                # The images are computed on the default stream, by threads that run ahead of this one.
                self._compute_stream.wait_stream(torch.cuda.default_stream(self._device))
                with torch.cuda.stream(self._compute_stream):
                    stacked = torch.stack(images)
                inputs = [*images, stacked]
            with torch.cuda.stream(self._compute_stream):
                outputs = self._run(stacked)
                # Copied into pinned memory, because otherwise this thread would wait for the copy.
                host_outputs = [torch.empty(out.shape, dtype=out.dtype, pin_memory=True) for out in outputs]
                for host_output, output in zip(host_outputs, outputs, strict=True):
                    host_output.copy_(output, non_blocking=True)
                done_event = torch.cuda.Event()
                done_event.record(self._compute_stream)
        return _Batch(images, host_outputs, done_event, inputs)

    def _collect(self, batch: "_Batch") -> Iterator[Outputs]:
        """Wait for a batch and yield its outputs image by image."""
        if batch.outputs is None:
            yield from self._run_in_smaller_batches(batch.images)
            return
        if batch.done_event is not None:
            batch.done_event.synchronize()
        arrays = [output.cpu().numpy() for output in batch.outputs]
        for index in range(len(batch.images)):
            yield tuple(array[index] for array in arrays)

    def _run_in_smaller_batches(self, images: list[Image]) -> Iterator[Outputs]:
        """Run a batch that did not fit into the GPU's memory again, in smaller batches, and keep their size."""
        if len(images) == 1:
            raise PipelineError(out_of_memory_message(self._device))
        free_cached_memory(self._device)
        self.batch = min(self.batch, (len(images) + 1) // 2)
        logger.warning("%s is out of memory: continuing with batches of %d", self._device, self.batch)
        remaining = images
        while remaining:
            # Running a batch may reduce the batch size further.
            batch_images, remaining = remaining[: self.batch], remaining[self.batch :]
            yield from self._collect(self._submit(batch_images))

    def _run(self, images: Any) -> list[Any]:
        """Run the network on uint8 images on the device; returns its outputs in float32 on the device."""
        pixels = images.flip(-1).permute(0, 3, 1, 2).to(self._dtype) / 255
        outputs = [output.float() for output in self._forward(pixels)]
        if self._on_gpu:
            outputs[0] = self._select_best_anchors(outputs[0])
        return outputs

    def _forward(self, pixels: Any) -> Sequence[Any]:
        result = self._network(pixels)
        # Ultralytics returns the predictions, or a pair of them and the feature maps.
        predictions = result[0] if isinstance(result, list | tuple) else result
        return predictions if isinstance(predictions, list | tuple) else (predictions,)

    def _select_best_anchors(self, output: Any) -> Any:
        """Select the anchors with the highest class score from (batch, values, anchors), so that less is copied."""
        if output.ndim != 3 or output.shape[2] <= _MAX_ANCHORS or output.shape[1] < 4 + self._class_count:
            return output
        best_score = output[:, 4 : 4 + self._class_count].amax(dim=1)
        anchors = best_score.topk(_MAX_ANCHORS, dim=1).indices
        return output.gather(2, anchors[:, None].expand(-1, output.shape[1], -1))

    def _find_batch_size(self) -> int:
        """Compute how many images fit into a share of the GPU's free memory, from the memory that two need."""
        import torch

        torch.cuda.reset_peak_memory_stats(self._device)
        allocated_before_bytes = torch.cuda.memory_allocated(self._device)
        with torch.inference_mode(), torch.cuda.device(self._device):
            self._run(torch.zeros((2, *self._input_shape), dtype=torch.uint8, device=self._device))
            torch.cuda.synchronize(self._device)  # the weights must be on the GPU before another stream reads them
        image_bytes = max(1, (torch.cuda.max_memory_allocated(self._device) - allocated_before_bytes) // 2)
        free_cached_memory(self._device)  # otherwise memory that torch caches would not count as free
        free_bytes = torch.cuda.mem_get_info(self._device)[0] * _MEMORY_SHARE
        return int(max(1, min(_MAX_BATCH, free_bytes // (_BATCHES_IN_FLIGHT * image_bytes))))


@dataclass(frozen=True)
class _Batch:
    """A batch in flight.

    Attributes:
        images: Its images.
        outputs: The network's outputs, complete once `done_event` has occurred; None if the memory did not suffice.
        done_event: CUDA event at the end of the computation; None on the CPU.
        inputs: Tensors that must stay alive until then, because the GPU reads them.
    """

    images: list[Image]
    outputs: list[Any] | None
    done_event: Any = None
    inputs: Any = None
