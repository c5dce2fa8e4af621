import itertools
import multiprocessing
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resources.errors import PipelineError
from resources.footage import Picture, pictures
from resources.inference.detector import MeasuredEngine, Models, _Choice, _frames_per_s
from resources.inference.device_lease import device_lease, lease_folder
from resources.inference.postprocessing import Letterbox
from resources.inference.weights import load_weights
from resources.settings import DetectionSettings
from tests.conftest import BUNDLED_WEIGHTS

SETTINGS = DetectionSettings(weights=str(BUNDLED_WEIGHTS))


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_engines_answer_in_order_and_alike(engine: str) -> None:
    from demo.scenes import demo_scene, draw_frame

    scene = demo_scene(3, 8, {"car": 2, "bicycle": 1})
    pictures = [draw_frame(scene, moment / 2)[0] for moment in range(16)]
    detector = Models().detector(SETTINGS.model_copy(update={"engine": engine}), 640, 360, "cpu")
    assert engine in detector.engine_name
    together = list(detector.detect(iter(pictures)))
    assert len(together) == 16
    assert sum(len(boxes) for boxes in together) > 10
    for picture, boxes in list(zip(pictures, together, strict=True))[::5]:
        alone = next(iter(detector.detect(iter([picture]))))
        assert np.allclose(alone.xyxy, boxes.xyxy, atol=0.5)


def test_pictures_that_are_made_smaller_give_the_same_boxes_of_the_whole_picture(tmp_path: Path) -> None:
    from demo.scenes import demo_scene, write_video

    video, wanted, rate = tmp_path / "a.mp4", range(10, 200, 10), Fraction(25)
    write_video(demo_scene(3, 8, {"car": 2, "bicycle": 1}), video)
    detector = Models().detector(SETTINGS, 640, 360, "cpu")
    assert detector.shrunk_by(640, 360) == 2
    assert detector.shrunk_by(960, 540) == 3
    assert detector.shrunk_by(320, 180) == detector.shrunk_by(800, 450) == detector.shrunk_by(640, 362) == 1
    whole = list(detector.detect(pictures(video, wanted, rate)))
    shrunk = list(detector.detect(pictures(video, wanted, rate, shrunk_by=2), (640, 360)))
    assert sum(len(boxes) for boxes in whole) > 10
    for one, other in zip(whole, shrunk, strict=True):
        expected, given = (boxes.xyxy[boxes.confidence > 0.3] for boxes in (one, other))
        assert expected.shape == given.shape
        assert np.allclose(expected[np.argsort(expected[:, 0])], given[np.argsort(given[:, 0])], atol=2)


def test_pictures_of_the_networks_own_size_are_taken_however_they_lie_in_memory() -> None:
    whole = np.random.default_rng(0).integers(0, 255, (400, 400, 3)).astype(np.uint8)
    part = whole[50:242, 40:360]  # as a region cuts it
    fixed = part.copy()
    fixed.flags.writeable = False
    engine = Models().detector(SETTINGS, 320, 192, "cpu")._engine
    answers = [answer[0].copy() for answer in engine.infer([part.copy(), part, fixed])]
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[0], answers[2])


def test_an_error_while_decoding_is_the_one_that_is_raised() -> None:
    def failing() -> Iterator[np.ndarray]:
        yield np.zeros((360, 640, 3), np.uint8)
        raise RuntimeError("the disk went away")

    detector = Models().detector(SETTINGS, 640, 360, "cpu")
    with pytest.raises(RuntimeError, match="the disk went away"):
        list(detector.detect(failing()))


def test_a_consumer_that_stops_early_leaves_no_thread_behind() -> None:
    import threading

    detector = Models().detector(SETTINGS, 640, 360, "cpu")
    endless = itertools.repeat(np.zeros((360, 640, 3), np.uint8))
    answers = detector.detect(endless)
    next(iter(answers))
    answers.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def hold(device: str, seconds: float) -> None:
    with device_lease([device]):
        time.sleep(seconds)


def test_a_device_serves_one_at_a_time_and_a_kill_gives_it_back() -> None:
    device = f"test:{time.time_ns()}"
    holder = multiprocessing.get_context("spawn").Process(target=hold, args=(device, 60))
    holder.start()
    lock = lease_folder() / f"{device.replace(':', '-')}.lock"
    deadline = time.monotonic() + 30
    while not lock.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    waited: list[bool] = []

    def kill() -> None:
        waited.append(True)
        holder.kill()

    with device_lease([device], on_wait=kill) as held:
        assert held == device
    assert waited == [True]
    lock.unlink()


def test_the_first_free_device_is_taken() -> None:
    name = f"test:{time.time_ns()}"
    with device_lease([f"{name}a", f"{name}b"]) as one, device_lease([f"{name}a", f"{name}b"]) as other:
        assert (one, other) == (f"{name}a", f"{name}b")
    for file in lease_folder().glob(f"{name.replace(':', '-')}*"):
        file.unlink()


@pytest.mark.parametrize(
    "error",
    [
        pytest.param("OutOfMemoryError", id="torch's own"),
        pytest.param("CUDA error: out of memory", id="CUDA's"),
        pytest.param("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", id="cuBLAS's"),
    ],
)
def test_what_does_not_fit_into_memory_is_done_in_smaller_batches(error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from resources.inference.engines import TorchEngine

    model = load_weights(SETTINGS, Models().cache_folder)
    fit = Letterbox.of(320, 180, 320)
    engine = TorchEngine(model, fit, "cpu", "f32")
    pictures = [np.full((192, 320, 3), number, np.uint8) for number in range(11)]
    alone = [outputs[0].copy() for outputs in engine.infer(pictures)]
    sizes: list[int] = []
    run = engine._run

    def little_memory(batch: torch.Tensor) -> list[torch.Tensor]:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("full") if error == "OutOfMemoryError" else RuntimeError(error)
        return run(batch)

    monkeypatch.setattr(engine, "_run", little_memory)
    engine.batch = 8
    together = [outputs[0].copy() for outputs in engine.infer(pictures)]
    assert len(together) == 11
    assert engine.batch == 2
    # Eight, and the three that are left, were asked for before it was known; then no more than fit is tried again.
    assert sizes == [8, 3, 4, 2, 2, 2, 2, 2, 1]
    assert all(np.allclose(one, other, atol=1e-3) for one, other in zip(alone, together, strict=True))


def test_an_error_of_the_network_is_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from resources.inference.engines import TorchEngine

    def broken(_: torch.Tensor) -> list[torch.Tensor]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine = TorchEngine(load_weights(SETTINGS, Models().cache_folder), Letterbox.of(320, 180, 320), "cpu", "f32")
    engine.batch = 4
    monkeypatch.setattr(engine, "_run", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(engine.infer([np.zeros((192, 320, 3), np.uint8)] * 5))


class _Clockwork:
    """An engine and its clock: so many pictures in a batch, each batch as long, one computed while one is read."""

    name, precision = "clockwork", "f32"

    def __init__(self, batch: int, batch_s: float) -> None:
        self.batch, self._batch_s = batch, batch_s
        self.in_flight = 2 * batch
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def infer(self, pictures: Iterable[Any]) -> Iterator[Any]:
        source, begun, busy_until_s = iter(pictures), deque[tuple[int, float]](), 0.0
        while True:
            count = len(list(itertools.islice(source, self.batch)))
            if count:
                busy_until_s = max(busy_until_s, self.now_s) + self._batch_s
                begun.append((count, busy_until_s))
            if len(begun) == 2 or (begun and not count):
                done, done_s = begun.popleft()
                self.now_s = max(self.now_s, done_s)
                yield from range(done)
            elif not count:
                return


@pytest.mark.parametrize("batch", [1, 16, 32])
def test_an_engine_is_as_fast_as_its_batches_follow_each_other(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Were batches counted that were computed before the clock was started, large ones would seem faster.
    engine = _Clockwork(batch, 0.05)
    monkeypatch.setattr("resources.inference.detector.time", engine)
    assert _frames_per_s(engine, [np.zeros((2, 2, 3), np.uint8)] * 24) == pytest.approx(batch / 0.05)


def test_no_memory_for_a_single_picture_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from resources.inference.engines import TorchEngine

    def no_memory(_: torch.Tensor) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("out of memory")

    engine = TorchEngine(load_weights(SETTINGS, Models().cache_folder), Letterbox.of(320, 180, 320), "cpu", "f32")
    engine.batch = 4
    monkeypatch.setattr(engine, "_run", no_memory)
    with pytest.raises(PipelineError, match="cpu has no memory left for a single picture: end what else runs there"):
        list(engine.infer([np.zeros((192, 320, 3), np.uint8)] * 5))


def choice(device: str, folder: Path) -> _Choice:
    model, fit = load_weights(SETTINGS, Models().cache_folder), Letterbox.of(320, 180, 320)
    return _Choice(model, fit, SETTINGS, device, folder)


def measured(precision: str, frames_per_s: float, recall: float = 1.0, boxes: int = 200) -> MeasuredEngine:
    return MeasuredEngine(precision, precision, frames_per_s, 24, "torch-f32", boxes, recall, 1.0, 1.0, 1.0, 0.0)


def test_engines_are_tried_best_first_and_the_reference_last(tmp_path: Path) -> None:
    cpu = choice("cpu", tmp_path)
    every = ["f32", "bf16", "int8"]
    assert cpu._ranked(every, []) == ["bf16"]
    fast = [measured("f32", 40), measured("bf16", 80), measured("int8", 110)]
    assert cpu._ranked(every, fast) == ["int8", "bf16", "f32"]
    assert cpu._ranked(every, [*fast[:2], measured("int8", 110, recall=0.9)]) == ["bf16", "f32"]
    assert cpu._ranked(every, [measured("bf16", 80, recall=0.9)]) == ["f32"]
    # On little footage int8 must be righter than what computes as it was trained.
    assert cpu._ranked(every, [measured("int8", 110, recall=0.985)]) == ["int8", "f32"]
    assert cpu._ranked(every, [measured("int8", 110, recall=0.985, boxes=80)]) == ["f32"]
    assert cpu._ranked(every, [measured("bf16", 110, recall=0.985, boxes=80)]) == ["bf16", "f32"]
    assert cpu._ranked(["tensorrt", "f32", "f16"], []) == ["f16"]


def test_an_engine_that_cannot_be_made_here_gives_way_to_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorRT wants an NVIDIA GPU and its package; where either is missing this is what really happens.
    monkeypatch.setattr("resources.inference.detector.has_tensorrt", lambda: True)
    gpu = choice("cuda:99", tmp_path)
    assert gpu._candidates() == ["tensorrt", "f32", "f16"]
    only_torch = SETTINGS.model_copy(update={"engine": "torch"})
    assert replace(gpu, settings=only_torch)._candidates() == ["f32", "f16"]
    with caplog.at_level("WARNING", "resources.inference.detector"):
        assert list(gpu._built(["tensorrt"], None)) == []
    assert "tensorrt cannot be used for street-" in caplog.text


def test_a_compiled_network_that_is_damaged_gives_way_to_the_next(tmp_path: Path) -> None:
    cpu = choice("cpu", tmp_path)
    if "int8" not in cpu._candidates():
        pytest.skip("this processor computes in one precision only")
    cpu._engine("f32", None)
    (cpu._folder / "int8.xml").write_text("no network")
    cpu._remember([measured("f32", 40), measured("int8", 110)])
    engine, told = cpu.make(None)
    assert engine.name == "openvino-f32-320x192"
    assert len(told) == 2


def test_a_device_is_locked_by_the_name_that_all_know_it_by() -> None:
    name = f"test:{time.time_ns()}"
    with device_lease(["cuda:0"], lock_name=lambda _: f"{name}a") as one:
        with device_lease(["cuda:0"], lock_name=lambda _: f"{name}b") as other:
            assert one == other == "cuda:0"
        with pytest.raises(TimeoutError), device_lease(["cuda:7"], _give_up, lambda _: f"{name}a"):
            pass
    for file in lease_folder().glob(f"{name.replace(':', '-')}*"):
        file.unlink()


def _give_up() -> None:
    raise TimeoutError


def test_pictures_that_look_the_same_reuse_what_was_found() -> None:
    from demo.scenes import demo_scene, draw_frame

    scene = demo_scene(3, 8, {"car": 2, "bicycle": 1})
    first, second = (draw_frame(scene, moment)[0] for moment in (2, 5))
    shown = [first, None, None, second, None, first]
    found = list(Models().detector(SETTINGS, 640, 360, "cpu").detect(iter(shown)))
    assert [one.is_reused for one in found] == [False, True, True, False, True, False]
    assert len(found[0]) > 0
    assert np.array_equal(found[0].xyxy, found[2].xyxy)
    assert np.allclose(found[0].xyxy, found[5].xyxy)


@pytest.mark.parametrize("thread_count", [0, 3])
def test_work_in_threads_keeps_the_order(thread_count: int) -> None:
    import torch

    from resources.inference.detector import _each

    def slow_first(item: Picture) -> Picture:
        time.sleep(0.02 if item[0] % 5 == 0 else 0)
        return item * 2

    items = (np.array([number]) for number in range(30))
    assert [int(done[0]) for done in _each(slow_first, items, thread_count)] == list(range(0, 60, 2))
    there = (torch.tensor([number]) for number in range(30))
    assert [int(done[0]) for done in _each(slow_first, there, thread_count)] == list(range(0, 60, 2))


@pytest.mark.parametrize("content", ["{", '[{"engine_name": "openvino"}]'])
def test_measures_that_cannot_be_read_are_made_again(content: str, tmp_path: Path) -> None:
    cpu = choice("cpu", tmp_path)
    cpu._measures_file.parent.mkdir(parents=True)
    cpu._measures_file.write_text(content)
    assert cpu._remembered() == []


def test_where_not_even_the_reference_precision_agrees_torch_computes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cpu = choice("cpu", tmp_path)
    if not cpu.is_open:
        pytest.skip("this processor computes in one precision only")
    assert cpu._ranked(cpu._candidates(), [measured(name, 50, recall=0.5) for name in cpu._candidates()]) == []
    cpu._remember([measured(name, 50, recall=0.5) for name in cpu._candidates() if name != "int8"])
    engine, _ = cpu.make(None)
    assert engine.name.startswith("torch-f32")
    assert "No faster engine can be used for street-" in caplog.text


def test_after_empty_recordings_engines_are_still_measured_on_a_busy_one(tmp_path: Path) -> None:
    if not choice("cpu", tmp_path).is_open:
        pytest.skip("this processor computes in one precision only")
    from demo.scenes import demo_scene, draw_frame

    scene = demo_scene(3, 12, {"car": 4, "bicycle": 3, "person": 4})
    busy = [draw_frame(scene, 2 + moment / 10)[0] for moment in range(80)]
    empty = [np.zeros((360, 640, 3), np.uint8)] * 8
    models = Models(tmp_path)
    first = models.detector(SETTINGS, 640, 360, "cpu", lambda: empty)
    again = models.detector(SETTINGS, 640, 360, "cpu", lambda: empty)
    assert not first.measured
    assert not again.measured
    assert again._engine is first._engine  # it is not loaded anew
    assert models.detector(SETTINGS, 640, 360, "cpu", lambda: busy).measured
    proven = models.detector(SETTINGS, 640, 360, "cpu", lambda: pytest.fail("it is not asked for pictures again"))
    assert proven.measured
