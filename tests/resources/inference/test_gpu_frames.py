import logging
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace

from resources.inference import gpu_frames
from resources.inference.gpu_frames import convert_nv12_to_bgr, decode_on_best_device, letterbox_tensor
from resources.inference.letterbox import Letterbox
from resources.media.frame_converter import FrameConverter
from resources.media.frame_reader import read_images
from tests.builders.numbered_videos import MakeVideo


def draw_colour_blocks(width_px: int, height_px: int) -> np.ndarray:
    """Draw blocks of random colours with hard edges."""
    rng = np.random.default_rng(3)
    colours = rng.integers(0, 256, (height_px // 8 + 1, width_px // 8 + 1, 3), np.uint8)
    return np.ascontiguousarray(colours.repeat(8, axis=0).repeat(8, axis=1)[:height_px, :width_px])


@pytest.mark.parametrize("colorspace", [Colorspace.ITU709, Colorspace.ITU601])
@pytest.mark.parametrize("color_range", [ColorRange.MPEG, ColorRange.JPEG])
@pytest.mark.parametrize("size", [(128, 96), (322, 182)])
def test_torch_converts_colours_as_the_cpu_does(
    colorspace: Colorspace, color_range: ColorRange, size: tuple[int, int]
) -> None:
    luma = draw_colour_blocks(*size)[..., 0]
    chroma = draw_colour_blocks(size[0] // 2, size[1] // 2)[..., 1:]
    data_by_format = {
        "yuv420p": np.concatenate((luma.ravel(), chroma[..., 0].ravel(), chroma[..., 1].ravel())),
        "nv12": np.concatenate((luma.ravel(), chroma.ravel())),
    }
    frames = {}
    for pixel_format, data in data_by_format.items():
        frame = av.VideoFrame.from_ndarray(data.reshape(-1, size[0]), format=pixel_format)
        frame.colorspace, frame.color_range = colorspace, color_range
        frames[pixel_format] = frame
    cpu_image = FrameConverter().to_bgr(frames["yuv420p"])
    torch_image = convert_nv12_to_bgr(frames["nv12"]).numpy()
    difference = np.abs(cpu_image.astype(int) - torch_image)
    assert torch_image.shape == cpu_image.shape
    assert difference.mean() < 1.0
    assert difference.max() <= 4


@pytest.mark.parametrize("size", [(1280, 720), (640, 384), (100, 900), (320, 180), (641, 361)])
def test_torch_letterboxes_as_the_cpu_does(size: tuple[int, int]) -> None:
    letterbox, image = Letterbox.for_stride(*size, 640), draw_colour_blocks(*size)
    cpu_image = letterbox.apply(image)
    torch_image = letterbox_tensor(letterbox, torch.from_numpy(image)).numpy()
    assert torch_image.shape == cpu_image.shape
    assert np.abs(cpu_image.astype(int) - torch_image).max() <= 1


def test_the_cpu_decodes_where_the_gpu_cannot(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu_frames, "has_hardware_decoder", lambda: True)
    video, frame_indices, rate_fps = make_video("a.mp4", 12), [0, 3, 11], Fraction(24)
    with caplog.at_level(logging.INFO):
        images = [
            np.asarray(torch.as_tensor(image).cpu())
            for image in decode_on_best_device(video, frame_indices, rate_fps, "cuda:0")
        ]
    assert torch.cuda.is_available() or "the CPU decodes" in caplog.text
    for image, cpu_image in zip(images, read_images(video, frame_indices, rate_fps), strict=True):
        assert np.abs(image.astype(int) - cpu_image).mean() < 2


def use_fake_gpu(monkeypatch: pytest.MonkeyPatch, decode_on_gpu: Callable[..., Iterator[torch.Tensor]]) -> None:
    """Replace the GPU's decoder, with tensors in the CPU's memory instead of a GPU's."""
    monkeypatch.setattr(gpu_frames, "has_hardware_decoder", lambda: True)
    monkeypatch.setattr(gpu_frames, "_copy_to_device", lambda image, _: torch.from_numpy(image))
    monkeypatch.setattr(gpu_frames, "decode_on_gpu", decode_on_gpu)
    monkeypatch.setattr(gpu_frames, "_verified_formats", set())


@pytest.mark.parametrize("ends_with", ["error", "no error"])
def test_the_cpu_decodes_the_remaining_frames_where_the_gpu_stops(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, ends_with: str
) -> None:
    def decode_five_frames(
        path: Path, frame_indices: Sequence[int], rate_fps: Fraction, _: str
    ) -> Iterator[torch.Tensor]:
        for image in read_images(path, frame_indices[:5], rate_fps):
            yield torch.from_numpy(image)
        if ends_with == "error" and len(frame_indices) > 5:
            raise av.error.ExternalError(1, "the driver has crashed")

    video, frame_indices, rate_fps = make_video("a.mp4", 24), list(range(2, 24, 2)), Fraction(24)
    use_fake_gpu(monkeypatch, decode_five_frames)
    images = list(decode_on_best_device(video, frame_indices, rate_fps, "cuda:0"))
    assert all(isinstance(image, torch.Tensor) for image in images)
    for image, cpu_image in zip(images, read_images(video, frame_indices, rate_fps), strict=True):
        assert np.array_equal(np.asarray(image), cpu_image)


def test_a_gpu_is_verified_once_per_video_format(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    frame_counts: list[int] = []

    def decode_and_count(
        path: Path, frame_indices: Sequence[int], rate_fps: Fraction, _: str
    ) -> Iterator[torch.Tensor]:
        frame_counts.append(len(frame_indices))
        yield from (torch.from_numpy(image) for image in read_images(path, frame_indices, rate_fps))

    use_fake_gpu(monkeypatch, decode_and_count)
    for name, size in (("a.mp4", (128, 96)), ("b.mp4", (128, 96)), ("c.mp4", (160, 120))):
        video = make_video(name, 12, size=size)
        assert len(list(decode_on_best_device(video, range(12), Fraction(24), "cuda:0"))) == 12
    assert frame_counts == [4, 12, 12, 4, 12]


def test_the_cpu_decodes_where_the_gpu_gives_other_colours(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def decode_inverted(
        path: Path, frame_indices: Sequence[int], rate_fps: Fraction, *_: Any
    ) -> Iterator[torch.Tensor]:
        yield from (torch.from_numpy(255 - image) for image in read_images(path, frame_indices, rate_fps))

    video, frame_indices, rate_fps = make_video("a.mp4", 12), [0, 3, 11], Fraction(24)
    monkeypatch.setattr(gpu_frames, "has_hardware_decoder", lambda: True)
    monkeypatch.setattr(gpu_frames, "decode_on_gpu", decode_inverted)
    images = list(decode_on_best_device(video, frame_indices, rate_fps, "cuda:0"))
    assert "to other images than the CPU" in caplog.text
    for image, cpu_image in zip(images, read_images(video, frame_indices, rate_fps), strict=True):
        assert np.array_equal(image, cpu_image)
