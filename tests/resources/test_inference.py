import itertools
import multiprocessing
import time
from collections.abc import Iterator

import numpy as np
import pytest

from resources.device_lease import device_lease, lease_folder
from resources.inference import Models
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


def test_what_does_not_fit_into_memory_is_done_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from resources.engines import TorchEngine
    from resources.postprocessing import Letterbox
    from resources.weights import load_weights

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
            raise torch.OutOfMemoryError("out of memory")
        return run(batch)

    monkeypatch.setattr(engine, "_run", little_memory)
    engine._batch = 8
    together = [outputs[0].copy() for outputs in engine.infer(pictures)]
    assert len(together) == 11
    assert sizes[0] == 8
    assert max(sizes[-3:]) <= 2
    assert all(np.allclose(one, other, atol=1e-3) for one, other in zip(alone, together, strict=True))


def test_pictures_that_look_the_same_reuse_what_was_found() -> None:
    from demo.scenes import demo_scene, draw_frame

    scene = demo_scene(3, 8, {"car": 2, "bicycle": 1})
    shown = [draw_frame(scene, moment)[0] for moment in (2, 2, 2, 5, 5, 2)]
    settings = SETTINGS.model_copy(update={"skip_static": True})
    found = list(Models().detector(settings, 640, 360, "cpu").detect(iter(shown)))
    assert [one.is_reused for one in found] == [False, True, True, False, True, False]
    assert len(found[0]) > 0
    assert np.array_equal(found[0].xyxy, found[2].xyxy)
    assert np.allclose(found[0].xyxy, found[5].xyxy)


@pytest.mark.parametrize("thread_count", [0, 3])
def test_work_in_threads_keeps_the_order(thread_count: int) -> None:
    from resources.inference import _each

    def slow_first(item: np.ndarray) -> np.ndarray:
        time.sleep(0.02 if item[0] % 5 == 0 else 0)
        return item * 2

    items = (np.array([number]) for number in range(30))
    assert [int(done[0]) for done in _each(slow_first, items, thread_count)] == list(range(0, 60, 2))
