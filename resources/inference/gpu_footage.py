"""Pictures that an NVIDIA GPU decodes and that stay in its memory until boxes leave it.

FFmpeg's NVDEC decoder hands out NV12 in the GPU's memory, which torch shares; colours and size are made there, as the
CPU's path makes them, so that either path finds the same.
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

from resources.footage import Picture, frames, pictures
from resources.inference.gpu_memory import with_room
from resources.inference.postprocessing import PADDING_GREY, Letterbox
from resources.media.opening import has_hardware_decoder, opened
from resources.media.reading import bgr_matrix

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_PROVEN_FRAMES = 4
_MAX_MEAN_DIFFERENCE = 2.0  # levels of 255 between the GPU's pictures and the CPU's: rounding, no other colours
_proven: set[tuple[object, ...]] = set()
"""Devices and kinds of video of which this process has seen that the former decodes the latter as the CPU does."""


class _OtherPicturesError(RuntimeError):
    """A GPU hands out pictures of another kind than is understood here."""


def gpu_pictures(path: Path, wanted: Sequence[int], rate_fps: Fraction, device: str) -> Generator["Tensor", None, None]:
    """Decode frames of a normalized video on a GPU; see `resources.footage.pictures`.

    Args:
        path: The MP4 file.
        wanted: Ascending frame indices.
        rate_fps: The video's constant rate.
        device: As torch names it, such as `cuda:0`.

    Yields:
        uint8 BGR tensors of shape (height_px, width_px, 3) on the device, complete when they are handed out.

    Raises:
        PipelineError: The GPU has no memory left for a picture.
        RuntimeError: The GPU decodes into something else; what drivers and decoders raise comes as it is.
    """
    import torch

    there = torch.device(device)

    # Within this the decoder finds torch's own context, and shares it.
    with torch.cuda.device(device), closing(frames(path, wanted, rate_fps, hardware_decoder(device))) as source:
        for frame in source:
            if frame.format.name != "cuda" or frame.sw_format is None or frame.sw_format.name != "nv12":
                raise _OtherPicturesError(f"the GPU hands out {frame.sw_format or frame.format} instead of nv12")
            picture = with_room(functools.partial(bgr_of, frame), there)
            # The decoder writes a later frame into the memory of this one.
            torch.cuda.default_stream(there).synchronize()
            yield picture


def hardware_decoder(device: str) -> HWAccel:
    """NVDEC of a GPU, whose pictures torch shares.

    Args:
        device: As torch names it; the thread's current device.
    """
    import torch

    torch.zeros(1, device=device)  # makes the context
    return HWAccel(
        "cuda",
        device=str(torch.device(device).index or 0),
        allow_software_fallback=False,
        # A context of FFmpeg's own could not share memory with torch, and torch's it takes only as it is.
        options={"primary_ctx": "0", "current_ctx": "1"},
        is_hw_owned=True,
    )


def bgr_of(frame: VideoFrame) -> "Tensor":
    """The picture of an NV12 frame, made where the frame lies.

    Chroma is repeated, not interpolated, as swscale does it for pictures that keep their size.

    Args:
        frame: NV12 in the memory of the CPU or of a GPU.

    Returns:
        uint8 BGR tensor of shape (height_px, width_px, 3).
    """
    import torch

    # As capsules: torch would ask for a stream of its choice, and the decoder works on the default stream alone.
    luma, chroma = (torch.from_dlpack(plane.__dlpack__()) for plane in frame.planes)  # type: ignore[attr-defined]
    height_px, width_px = luma.shape
    rows, columns = chroma.shape[:2]
    # Few steps, since each of them costs the thread that asks for it as long as the GPU needs to do it.
    yuv = torch.empty((2 * rows, 2 * columns, 3), device=luma.device)
    yuv[:height_px, :width_px, 0] = luma
    yuv.view(rows, 2, columns, 2, 3)[..., 1:] = chroma[:, None, :, None]
    matrix, offset = _colours(luma.device, frame.colorspace == Colorspace.ITU709, frame.color_range == ColorRange.JPEG)
    bgr = torch.addmm(offset, yuv.view(-1, 3), matrix).clamp_(0, 255.5).to(torch.uint8)
    return bgr.view(yuv.shape)[:height_px, :width_px]


@functools.cache
def _colours(device: Any, is_bt709: bool, is_full: bool) -> "tuple[Tensor, Tensor]":
    """`bgr_matrix` on a device; half a level is added, so that dropping what lies behind the point rounds."""
    import torch

    matrix, offset = bgr_matrix(is_bt709, is_full)
    return torch.from_numpy(matrix).float().to(device), torch.from_numpy(offset + 0.5).float().to(device)


def fitted(fit: Letterbox, picture: "Tensor") -> "Tensor":
    """What `Letterbox.apply` makes of a picture, made where the picture lies.

    Args:
        fit: The fit.
        picture: uint8 tensor of shape (height_px, width_px, 3).

    Returns:
        uint8 tensor of shape (input_height_px, input_width_px, 3).
    """
    import torch
    import torch.nn.functional as f

    size = (fit.scaled_height_px, fit.scaled_width_px)
    is_scaled = tuple(picture.shape[:2]) == size
    if is_scaled and size == (fit.input_height_px, fit.input_width_px):
        return picture
    if not is_scaled:
        pixels = picture.permute(2, 0, 1)[None].float()
        pixels = f.interpolate(pixels, size, mode="bilinear", align_corners=False).round_()
        picture = pixels[0].permute(1, 2, 0)
    padded = torch.full(
        (fit.input_height_px, fit.input_width_px, 3), PADDING_GREY, dtype=torch.uint8, device=picture.device
    )
    padded[fit.top_px : fit.top_px + size[0], fit.left_px : fit.left_px + size[1]] = picture
    return padded


def best_pictures(
    path: Path, wanted: Sequence[int], rate_fps: Fraction, device: str, *, thread_count: int = 0, shrunk_by: int = 1
) -> Generator[Picture, None, None]:
    """Frames of a normalized video, decoded where they are needed: on the device if it can, else by the CPU.

    Args:
        path: The MP4 file.
        wanted: Ascending frame indices.
        rate_fps: The video's constant rate.
        device: As torch names it.
        thread_count: Threads of the CPU that decode; see `resources.footage.pictures`.
        shrunk_by: How many times smaller the CPU makes pictures that it decodes for itself.

    Yields:
        uint8 BGR of shape (height_px, width_px, 3): tensors on the device, or arrays.
    """
    done = 0
    on_gpu = device.startswith("cuda") and has_hardware_decoder() and _is_proven(device, path, rate_fps)
    if on_gpu:
        try:
            with closing(gpu_pictures(path, wanted, rate_fps, device)) as source:
                for picture in source:
                    yield picture
                    done += 1
        except (FFmpegError, _OtherPicturesError) as error:
            logger.warning("%s stops decoding %s, so the CPU goes on: %s", device, path.name, _told(error))
    shrunk_by = 1 if on_gpu else shrunk_by  # all pictures of a video are of one size
    for decoded in pictures(path, wanted[done:], rate_fps, thread_count=thread_count, shrunk_by=shrunk_by):
        yield _moved(decoded, device) if on_gpu else decoded


def _moved(picture: np.ndarray, device: str) -> "Tensor":
    import torch

    return torch.from_numpy(picture).to(device)


def _is_proven(device: str, path: Path, rate_fps: Fraction) -> bool:
    """Whether the GPU makes the same of a video's first frames as the CPU; looked at once for each kind of video."""
    kind = (device, *_kind_of(path))
    if kind in _proven:
        return True
    first = range(_PROVEN_FRAMES)
    try:
        there = [picture.cpu().numpy() for picture in gpu_pictures(path, first, rate_fps, device)]
    except Exception as error:
        # Drivers, decoders and sizes that do not go together fail in ways of their own; the CPU does the work.
        logger.warning(
            "%s does not decode %s, so the CPU does, which is slower (in a container the driver's video part, "
            "libnvcuvid, may be missing): %s",
            device, path.name, _told(error),
        )  # fmt: skip
        return False
    here = list(pictures(path, first, rate_fps))
    differences = [np.abs(one.astype(np.int16) - other).mean() for one, other in zip(there, here, strict=False)]
    if len(there) != len(here) or max(differences, default=0.0) > _MAX_MEAN_DIFFERENCE:
        logger.warning("%s decodes %s into other pictures than the CPU, which does it instead.", device, path.name)
        return False
    _proven.add(kind)
    return True


def _kind_of(path: Path) -> tuple[object, ...]:
    """What decides how a video is decoded: its codec, profile, size and colours."""
    with opened(path) as container:
        codec = container.streams.video[0].codec_context
        return (
            codec.name, codec.profile, codec.pix_fmt, codec.width, codec.height, codec.colorspace, codec.color_range,
        )  # fmt: skip


def _told(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
