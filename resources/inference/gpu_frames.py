"""Frames that an NVIDIA GPU decodes and that stay in its memory up to the detections.

FFmpeg's NVDEC decoder outputs NV12 in the GPU's memory, which torch shares. Colour conversion and letterboxing are done
there in the same way as on the CPU, so that both give the same detections.
"""

import functools
import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from av.codec.hwaccel import HWAccel
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from resources.errors import summarize_exception
from resources.inference.gpu_memory import retry_after_freeing_memory
from resources.inference.letterbox import PADDING_GREY, Letterbox
from resources.media.container import has_hardware_decoder, open_container
from resources.media.frame_converter import bgr_matrix
from resources.media.frame_reader import Image, decode_frames, read_images

if TYPE_CHECKING:
    from torch import Tensor


logger = logging.getLogger(__name__)
_VERIFIED_FRAME_COUNT = 4
_MAX_MEAN_DIFFERENCE = 2.0  # levels of 255 between the images of GPU and CPU: rounding, but no other colours

_verified_formats: set[tuple[object, ...]] = set()
"""Devices and video formats for which this process found that the device decodes as the CPU does."""


class _UnexpectedFormatError(RuntimeError):
    """A GPU decodes to a pixel format other than NV12."""


def decode_on_gpu(
    path: Path, frame_indices: Sequence[int], rate_fps: Fraction, device: str
) -> Generator["Tensor", None, None]:
    """Decode frames of a normalized video on a GPU; see `resources.media.frame_reader.read_images`.

    Args:
        path: The MP4 file.
        frame_indices: Ascending frame indices.
        rate_fps: The video's constant rate.
        device: As torch names it, such as `cuda:0`.

    Yields:
        uint8 BGR tensors of shape (height_px, width_px, 3) on the device, complete when they are yielded.

    Raises:
        PipelineError: The GPU has no memory left for a frame.
        RuntimeError: The GPU decodes to another pixel format. Errors of drivers and decoders are passed on.
    """
    import torch

    gpu = torch.device(device)

    # Inside this context the decoder finds torch's own CUDA context, and shares it.
    with (
        torch.cuda.device(device),
        closing(decode_frames(path, frame_indices, rate_fps, hardware_decoder(device))) as frames,
    ):
        for frame in frames:
            if frame.format.name != "cuda" or frame.sw_format is None or frame.sw_format.name != "nv12":
                raise _UnexpectedFormatError(f"the GPU decodes to {frame.sw_format or frame.format} instead of nv12")
            image = retry_after_freeing_memory(functools.partial(convert_nv12_to_bgr, frame), gpu)
            # The decoder writes a later frame into this frame's memory.
            torch.cuda.default_stream(gpu).synchronize()
            yield image


def hardware_decoder(device: str) -> HWAccel:
    """Create the NVDEC decoder of a GPU, whose frames torch can share.

    Args:
        device: As torch names it; must be the thread's current device.
    """
    import torch

    torch.zeros(1, device=device)  # creates the CUDA context
    return HWAccel(
        "cuda",
        device=str(torch.device(device).index or 0),
        allow_software_fallback=False,
        # A context of FFmpeg's own could not share memory with torch, and torch's context must be used as it is.
        options={"primary_ctx": "0", "current_ctx": "1"},
        is_hw_owned=True,
    )


def convert_nv12_to_bgr(frame: VideoFrame) -> "Tensor":
    """Convert an NV12 frame to BGR on the device that holds it.

    Chroma is repeated, not interpolated, as swscale does it for images that keep their size.

    Args:
        frame: NV12 in the memory of the CPU or of a GPU.

    Returns:
        uint8 BGR tensor of shape (height_px, width_px, 3).
    """
    import torch

    # As capsules: otherwise torch would request a stream of its choice, and the decoder uses the default stream only.
    luma, chroma = (torch.from_dlpack(plane.__dlpack__()) for plane in frame.planes)  # type: ignore[attr-defined]
    height_px, width_px = luma.shape
    row_count, column_count = chroma.shape[:2]
    # Few operations, because each of them costs the calling thread as long as the GPU needs to compute it.
    yuv = torch.empty((2 * row_count, 2 * column_count, 3), device=luma.device)
    yuv[:height_px, :width_px, 0] = luma
    yuv.view(row_count, 2, column_count, 2, 3)[..., 1:] = chroma[:, None, :, None]
    matrix, offset = _bgr_matrix_on_device(
        luma.device, frame.colorspace == Colorspace.ITU709, frame.color_range == ColorRange.JPEG
    )
    bgr = torch.addmm(offset, yuv.view(-1, 3), matrix).clamp_(0, 255.5).to(torch.uint8)
    return bgr.view(yuv.shape)[:height_px, :width_px]


@functools.cache
def _bgr_matrix_on_device(device: Any, is_bt709: bool, is_full_range: bool) -> "tuple[Tensor, Tensor]":
    """Copy `bgr_matrix` to a device; half a level is added to the offset, so that truncation to uint8 rounds."""
    import torch

    matrix, offset = bgr_matrix(is_bt709, is_full_range)
    return torch.from_numpy(matrix).float().to(device), torch.from_numpy(offset + 0.5).float().to(device)


def letterbox_tensor(fit: Letterbox, image: "Tensor") -> "Tensor":
    """Letterbox an image on the device that holds it, with the same result as `Letterbox.apply`.

    Args:
        fit: The letterbox.
        image: uint8 tensor of shape (height_px, width_px, 3).

    Returns:
        uint8 tensor of shape (input_height_px, input_width_px, 3).
    """
    import torch
    import torch.nn.functional as f

    size = (fit.scaled_height_px, fit.scaled_width_px)
    has_scaled_size = tuple(image.shape[:2]) == size
    if has_scaled_size and size == (fit.input_height_px, fit.input_width_px):
        return image
    if not has_scaled_size:
        pixels = image.permute(2, 0, 1)[None].float()
        pixels = f.interpolate(pixels, size, mode="bilinear", align_corners=False).round_()
        image = pixels[0].permute(1, 2, 0)
    letterboxed = torch.full(
        (fit.input_height_px, fit.input_width_px, 3), PADDING_GREY, dtype=torch.uint8, device=image.device
    )
    letterboxed[fit.top_px : fit.top_px + size[0], fit.left_px : fit.left_px + size[1]] = image
    return letterboxed


def decode_on_best_device(
    path: Path,
    frame_indices: Sequence[int],
    rate_fps: Fraction,
    device: str,
    *,
    thread_count: int = 0,
    downscale_factor: int = 1,
) -> Generator[Image, None, None]:
    """Decode frames of a normalized video on the model's device if it can do so, otherwise on the CPU.

    If the device fails while decoding, the CPU decodes the remaining frames.

    Args:
        path: The MP4 file.
        frame_indices: Ascending frame indices.
        rate_fps: The video's constant rate.
        device: The model's device, as torch names it.
        thread_count: Decoding threads of the CPU; see `resources.media.frame_reader.read_images`.
        downscale_factor: By how much images are downscaled where the CPU decodes from the start.

    Yields:
        uint8 BGR of shape (height_px, width_px, 3): tensors on the device, or arrays.
    """
    done_count = 0
    on_gpu = device.startswith("cuda") and has_hardware_decoder() and _gpu_decodes_like_cpu(device, path, rate_fps)
    if on_gpu:
        try:
            with closing(decode_on_gpu(path, frame_indices, rate_fps, device)) as tensors:
                for tensor in tensors:
                    yield tensor
                    done_count += 1
        except (FFmpegError, _UnexpectedFormatError) as error:
            logger.warning(
                "%s failed to decode %s; the CPU decodes the remaining frames: %s",
                device, path.name, summarize_exception(error),
            )  # fmt: skip
    downscale_factor = 1 if on_gpu else downscale_factor  # all images of a video must have the same size
    for image in read_images(
        path, frame_indices[done_count:], rate_fps, thread_count=thread_count, downscale_factor=downscale_factor
    ):
        yield _copy_to_device(image, device) if on_gpu else image


def _copy_to_device(image: np.ndarray, device: str) -> "Tensor":
    import torch

    return torch.from_numpy(image).to(device)


def _gpu_decodes_like_cpu(device: str, path: Path, rate_fps: Fraction) -> bool:
    """Whether GPU and CPU decode a video's first frames to the same images; compared once per video format."""
    video_format = (device, *_video_format(path))
    if video_format in _verified_formats:
        return True
    first_indices = range(_VERIFIED_FRAME_COUNT)
    try:
        gpu_images = [image.cpu().numpy() for image in decode_on_gpu(path, first_indices, rate_fps, device)]
    except Exception as error:
        # Unsuitable combinations of driver, decoder and frame size raise errors of many types; then the CPU decodes.
        logger.warning(
            "%s does not decode %s; the CPU decodes, which is slower (in a container the driver's video library, "
            "libnvcuvid, may be missing): %s",
            device, path.name, summarize_exception(error),
        )  # fmt: skip
        return False
    cpu_images = list(read_images(path, first_indices, rate_fps))
    differences = [
        np.abs(gpu_image.astype(np.int16) - cpu_image).mean()
        for gpu_image, cpu_image in zip(gpu_images, cpu_images, strict=False)
    ]
    if len(gpu_images) != len(cpu_images) or max(differences, default=0.0) > _MAX_MEAN_DIFFERENCE:
        logger.warning("%s decodes %s to other images than the CPU; the CPU decodes instead.", device, path.name)
        return False
    _verified_formats.add(video_format)
    return True


def _video_format(path: Path) -> tuple[object, ...]:
    """Properties that determine how a video is decoded: its codec, profile, size and colours."""
    with open_container(path) as container:
        codec = container.streams.video[0].codec_context
        return (
            codec.name, codec.profile, codec.pix_fmt, codec.width, codec.height, codec.colorspace, codec.color_range,
        )  # fmt: skip
