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

from resources.footage import pictures
from resources.inference import gpu_footage
from resources.inference.gpu_footage import best_pictures, bgr_of, fitted
from resources.inference.postprocessing import Letterbox
from resources.media.reading import Converter
from tests.conftest import MakeVideo


def _colourful(width_px: int, height_px: int) -> np.ndarray:
    """Every hue, from black to white, with hard edges."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (height_px // 8 + 1, width_px // 8 + 1, 3), np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=0).repeat(8, axis=1)[:height_px, :width_px])


@pytest.mark.parametrize("matrix", [Colorspace.ITU709, Colorspace.ITU601])
@pytest.mark.parametrize("light", [ColorRange.MPEG, ColorRange.JPEG])
@pytest.mark.parametrize("size", [(128, 96), (322, 182)])
def test_colours_made_by_torch_are_those_of_the_cpu_path(
    matrix: Colorspace, light: ColorRange, size: tuple[int, int]
) -> None:
    luma, chroma = _colourful(*size)[..., 0], _colourful(size[0] // 2, size[1] // 2)[..., 1:]
    planes = luma.ravel(), chroma[..., 0].ravel(), chroma[..., 1].ravel()
    stored = {"yuv420p": np.concatenate(planes), "nv12": np.concatenate((luma.ravel(), chroma.ravel()))}
    decoded = {}
    for name, data in stored.items():
        frame = av.VideoFrame.from_ndarray(data.reshape(-1, size[0]), format=name)
        frame.colorspace, frame.color_range = matrix, light
        decoded[name] = frame
    here, there = Converter().array(decoded["yuv420p"]), bgr_of(decoded["nv12"]).numpy()
    difference = np.abs(here.astype(int) - there)
    assert there.shape == here.shape
    assert difference.mean() < 1.0
    assert difference.max() <= 4


@pytest.mark.parametrize("size", [(1280, 720), (640, 384), (100, 900), (320, 180), (641, 361)])
def test_fitting_by_torch_is_that_of_the_cpu_path(size: tuple[int, int]) -> None:
    fit, picture = Letterbox.of(*size, 640), _colourful(*size)
    here, there = fit.apply(picture), fitted(fit, torch.from_numpy(picture)).numpy()
    assert there.shape == here.shape
    assert np.abs(here.astype(int) - there).max() <= 1


def test_a_gpu_that_cannot_decode_leaves_it_to_the_cpu(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gpu_footage, "has_hardware_decoder", lambda: True)
    video, wanted, rate = make_video("a.mp4", 12), [0, 3, 11], Fraction(24)
    with caplog.at_level(logging.INFO):
        found = [np.asarray(torch.as_tensor(one).cpu()) for one in best_pictures(video, wanted, rate, "cuda:0")]
    assert torch.cuda.is_available() or "so the CPU does" in caplog.text
    for one, other in zip(found, pictures(video, wanted, rate), strict=True):
        assert np.abs(one.astype(int) - other).mean() < 2


def _as_a_gpu(monkeypatch: pytest.MonkeyPatch, gpu: Callable[..., Iterator[torch.Tensor]]) -> None:
    """Let pictures in the CPU's memory pass for a GPU's."""
    monkeypatch.setattr(gpu_footage, "has_hardware_decoder", lambda: True)
    monkeypatch.setattr(gpu_footage, "_moved", lambda picture, _: torch.from_numpy(picture))
    monkeypatch.setattr(gpu_footage, "gpu_pictures", gpu)
    monkeypatch.setattr(gpu_footage, "_proven", set())


@pytest.mark.parametrize("kind", ["error", "silence"])
def test_where_a_gpu_stops_decoding_the_cpu_goes_on(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def failing(path: Path, wanted: Sequence[int], *asked: Any) -> Iterator[torch.Tensor]:
        for picture in pictures(path, wanted[:5], asked[0]):
            yield torch.from_numpy(picture)
        if kind == "error" and len(wanted) > 5:
            raise av.error.ExternalError(1, "the driver went away")

    video, wanted, rate = make_video("a.mp4", 24), list(range(2, 24, 2)), Fraction(24)
    _as_a_gpu(monkeypatch, failing)
    found = list(best_pictures(video, wanted, rate, "cuda:0"))
    assert all(isinstance(one, torch.Tensor) for one in found)
    for one, other in zip(found, pictures(video, wanted, rate), strict=True):
        assert np.array_equal(np.asarray(one), other)


def test_a_gpu_is_proven_once_for_each_kind_of_video(make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[int] = []

    def gpu(path: Path, wanted: Sequence[int], *asked: Any) -> Iterator[torch.Tensor]:
        asked_for.append(len(wanted))
        yield from (torch.from_numpy(picture) for picture in pictures(path, wanted, asked[0]))

    _as_a_gpu(monkeypatch, gpu)
    for name, size in (("a.mp4", (128, 96)), ("b.mp4", (128, 96)), ("c.mp4", (160, 120))):
        video = make_video(name, 12, size=size)
        assert len(list(best_pictures(video, range(12), Fraction(24), "cuda:0"))) == 12
    assert asked_for == [4, 12, 12, 4, 12]


def test_a_gpu_that_shows_other_colours_is_not_believed(
    make_video: MakeVideo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(*asked: Any) -> Iterator[torch.Tensor]:
        yield from (torch.from_numpy(255 - picture) for picture in pictures(*asked[:3]))

    video, wanted, rate = make_video("a.mp4", 12), [0, 3, 11], Fraction(24)
    monkeypatch.setattr(gpu_footage, "has_hardware_decoder", lambda: True)
    monkeypatch.setattr(gpu_footage, "gpu_pictures", wrong)
    found = list(best_pictures(video, wanted, rate, "cuda:0"))
    assert "other pictures than the CPU" in caplog.text
    assert all(np.array_equal(one, other) for one, other in zip(found, pictures(video, wanted, rate), strict=True))
