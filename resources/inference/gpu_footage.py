"""Pictures that an NVIDIA GPU decodes and that stay in its memory until boxes leave it.

FFmpeg's NVDEC decoder hands out NV12 in the GPU's memory, which torch shares; colours and size are made there, as the
CPU's path makes them, so that either path finds the same.
"""

import logging
from collections.abc import Generator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from resources.footage import Picture, frames, pictures
from resources.inference.postprocessing import PADDING_GREY, Letterbox
from resources.media.opening import has_hardware_decoder

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_PROVEN_FRAMES = 4
_MAX_MEAN_DIFFERENCE = 2.0  # levels of 255 between the GPU's pictures and the CPU's: rounding, no other colours
# Red's and blue's weight in luma (ITU-R BT.601 and BT.709), by what the frame says; silent means BT.601, as swscale
# takes it.
_BT709, _BT601 = (0.2126, 0.0722), (0.299, 0.114)


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
        RuntimeError: The GPU decodes into something else; what drivers and decoders raise comes as it is.
    """
    import torch

    # Within this the decoder finds torch's own context, and shares it.
    with torch.cuda.device(device), closing(frames(path, wanted, rate_fps, _decoder(device))) as source:
        for frame in source:
            if frame.format.name != "cuda" or frame.sw_format is None or frame.sw_format.name != "nv12":
                raise RuntimeError(f"the GPU hands out {frame.sw_format or frame.format} instead of nv12")
            picture = bgr_of(frame)
            # The decoder writes a later frame into the memory of this one.
            torch.cuda.default_stream(picture.device).synchronize()
            yield picture


def _decoder(device: str) -> HWAccel:
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
    is_full = frame.color_range == ColorRange.JPEG
    red, blue = _BT709 if frame.colorspace == Colorspace.ITU709 else _BT601
    green = 1 - red - blue
    light = luma.float() if is_full else (luma.float() - 16) * (255 / 219)
    wide = chroma.repeat_interleave(2, dim=0)[:height_px].repeat_interleave(2, dim=1)[:, :width_px].float()
    u, v = ((wide - 128) * (1 if is_full else 255 / 224)).unbind(-1)
    # ITU-R BT.709-6, items 3.2 to 3.5, solved for the three colours.
    r, b = light + 2 * (1 - red) * v, light + 2 * (1 - blue) * u
    g = light - (2 * red * (1 - red) * v + 2 * blue * (1 - blue) * u) / green
    return torch.stack((b, g, r), dim=-1).round_().clamp_(0, 255).to(torch.uint8)


def fitted(fit: Letterbox, picture: "Tensor") -> "Tensor":
    """What `Letterbox.apply` makes of a picture, made where the picture lies.

    Args:
        fit: The fit.
        picture: uint8 tensor of shape (height_px, width_px, 3).

    Returns:
        uint8 tensor of shape (input_height_px, input_width_px, 3).
    """
    import torch.nn.functional as f

    size = (fit.scaled_height_px, fit.scaled_width_px)
    if tuple(picture.shape[:2]) == size == (fit.input_height_px, fit.input_width_px):
        return picture
    pixels = picture.permute(2, 0, 1)[None].float()
    if tuple(picture.shape[:2]) != size:
        pixels = f.interpolate(pixels, size, mode="bilinear", align_corners=False).round_()
    right_px = fit.input_width_px - fit.left_px - fit.scaled_width_px
    bottom_px = fit.input_height_px - fit.top_px - fit.scaled_height_px
    padded = f.pad(pixels, (fit.left_px, right_px, fit.top_px, bottom_px), value=PADDING_GREY)
    return padded[0].permute(1, 2, 0).byte().contiguous()


def best_pictures(path: Path, wanted: Sequence[int], rate_fps: Fraction, device: str) -> Generator[Picture, None, None]:
    """Frames of a normalized video, decoded where they are needed: on the device if it can, else by the CPU.

    Args:
        path: The MP4 file.
        wanted: Ascending frame indices.
        rate_fps: The video's constant rate.
        device: As torch names it.

    Yields:
        uint8 BGR of shape (height_px, width_px, 3): tensors on the device, or arrays.
    """
    if device.startswith("cuda") and has_hardware_decoder() and _is_proven(device, path, rate_fps):
        return gpu_pictures(path, wanted, rate_fps, device)
    return pictures(path, wanted, rate_fps)


def _is_proven(device: str, path: Path, rate_fps: Fraction) -> bool:
    """Whether the GPU makes the same of a video's first frames as the CPU."""
    first = range(_PROVEN_FRAMES)
    try:
        there = [picture.cpu().numpy() for picture in gpu_pictures(path, first, rate_fps, device)]
    except Exception as error:
        # Drivers, decoders and sizes that do not go together fail in ways of their own; the CPU does the work.
        told = " ".join(str(error).split())[:300] or type(error).__name__
        logger.info("%s does not decode %s, so the CPU does: %s", device, path.name, told)
        return False
    here = list(pictures(path, first, rate_fps))
    differences = [np.abs(one.astype(np.int16) - other).mean() for one, other in zip(there, here, strict=False)]
    if len(there) != len(here) or max(differences, default=0.0) > _MAX_MEAN_DIFFERENCE:
        logger.warning("%s decodes %s into other pictures than the CPU, which does it instead.", device, path.name)
        return False
    return True
