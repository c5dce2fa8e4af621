import itertools
import multiprocessing
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from resources.device_lease import device_lease, lease_folder
from resources.errors import PipelineError
from resources.inference import Letterbox, Models, check_weights, decode_output, detection_version
from resources.settings import DetectionSettings
from tests.conftest import BUNDLED_WEIGHTS

SETTINGS = DetectionSettings(weights=str(BUNDLED_WEIGHTS))


@pytest.mark.parametrize(
    ("width_px", "height_px", "expected"),
    [
        (1280, 720, (640, 384)),
        (800, 600, (640, 480)),
        (360, 640, (384, 640)),
        (100, 50, (640, 320)),
        (641, 3, (640, 32)),
    ],
)
def test_pictures_are_fitted_as_ultralytics_fits_them(width_px: int, height_px: int, expected: tuple[int, int]) -> None:
    from ultralytics.data.augment import LetterBox

    picture = np.random.default_rng(0).integers(0, 255, (height_px, width_px, 3), np.uint8)
    ours = Letterbox.of(width_px, height_px, 640)
    assert (ours.input_width_px, ours.input_height_px) == expected
    assert np.array_equal(ours.apply(picture), LetterBox((640, 640), auto=True, stride=32)(image=picture))


def test_boxes_come_back_into_the_picture() -> None:
    letterbox = Letterbox.of(1280, 720, 640)
    inside = np.array([[letterbox.left_px + 10, letterbox.top_px + 20, 110, 120], [-50, -50, 9999, 9999]], np.float32)
    back = letterbox.back(inside, 1280, 720)
    assert back[0].tolist() == [20, 40, (110 - letterbox.left_px) * 2, (120 - letterbox.top_px) * 2]
    assert back[1].tolist() == [0, 0, 1280, 720]


def raw_output(boxes: list[tuple[float, float, float, float, int, float]], class_count: int = 3) -> np.ndarray:
    """A network's output with boxes given as centre x, centre y, width, height, class, confidence."""
    output = np.zeros((4 + class_count, 50), np.float32)
    for column, (x, y, width, height, class_id, confidence) in enumerate(boxes):
        output[:4, column] = x, y, width, height
        output[4 + class_id, column] = confidence
    return output


def test_of_overlapping_boxes_of_a_class_the_best_stays() -> None:
    found = decode_output(
        raw_output(
            [(50, 50, 20, 20, 0, 0.6), (51, 50, 20, 20, 0, 0.9), (51, 50, 20, 20, 1, 0.5), (90, 90, 5, 5, 2, 0.05)]
        ),
        3,
        SETTINGS,
    )
    assert found.confidence.tolist() == pytest.approx([0.9, 0.5])
    assert found.class_id.tolist() == [0, 1]
    assert found.xyxy[0].tolist() == [41, 40, 61, 60]


def test_suppression_agrees_with_torchvision() -> None:
    import torch
    from torchvision.ops import batched_nms

    rng = np.random.default_rng(1)
    boxes = [
        (*rng.uniform(20, 80, 2), *rng.uniform(10, 30, 2), int(rng.integers(3)), float(rng.uniform(0.2, 1)))
        for _ in range(45)
    ]
    found = decode_output(raw_output(boxes), 3, SETTINGS)
    values = np.array(boxes, np.float32)
    xyxy = np.concatenate([values[:, :2] - values[:, 2:4] / 2, values[:, :2] + values[:, 2:4] / 2], axis=1)
    kept = batched_nms(torch.tensor(xyxy), torch.tensor(values[:, 5]), torch.tensor(values[:, 4]), SETTINGS.nms_iou)
    assert found.confidence.tolist() == pytest.approx(values[kept.numpy(), 5].tolist())


def test_networks_without_suppression_and_empty_frames_are_read() -> None:
    rows = np.array([[1, 2, 3, 4, 0.9, 2], [1, 2, 3, 4, 0.05, 0]], np.float32)
    assert decode_output(rows, 3, SETTINGS).class_id.tolist() == [2]
    assert len(decode_output(raw_output([]), 3, SETTINGS)) == 0
    with pytest.raises(PipelineError, match=r"shape \(9, 50\)"):
        decode_output(np.zeros((9, 50), np.float32), 3, SETTINGS)


def test_only_wanted_classes_are_kept() -> None:
    output = raw_output([(50, 50, 20, 20, 0, 0.6), (90, 50, 20, 20, 2, 0.9)])
    assert decode_output(output, 3, SETTINGS, np.array([0])).class_id.tolist() == [0]


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


def test_weights_that_cannot_work_get_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="do not exist"):
        check_weights(DetectionSettings(weights=str(tmp_path / "none.pt")))
    (tmp_path / "short.pt").write_bytes(b"123456789012345")
    with pytest.raises(PipelineError, match=r"not a PyTorch file \(15 bytes\)"):
        check_weights(DetectionSettings(weights=str(tmp_path / "short.pt")))
    with zipfile.ZipFile(tmp_path / "odd.pt", "w") as archive:
        archive.writestr("x", "y")
    with pytest.raises(PipelineError, match="cannot be loaded by Ultralytics"):
        Models(tmp_path / "cache").weights(DetectionSettings(weights=str(tmp_path / "odd.pt")))
    with pytest.raises(PipelineError, match="knows no class 'cat'"):
        Models().detector(SETTINGS.model_copy(update={"class_names": ("cat",)}), 640, 360, "cpu")


def test_published_weights_that_cannot_be_had_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ultralytics.utils import downloads

    def no_route(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(downloads, "safe_download", no_route)
    monkeypatch.setattr("resources.inference.PROJECT_ROOT", tmp_path)
    with pytest.raises(
        PipelineError, match=r"yolo26n.pt are not on this machine .* put the file at .*weights/yolo26n.pt"
    ):
        Models(tmp_path / "cache").weights(DetectionSettings(weights="yolo26n.pt"))


def test_the_version_follows_the_content_of_the_weights(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / f"{name}.pt" for name in ("one", "copy", "other"))
    one.write_bytes(b"a")
    copy.write_bytes(b"a")
    other.write_bytes(b"b")
    versions = [detection_version(DetectionSettings(weights=str(path))) for path in (one, copy, other)]
    assert versions[0] == versions[1] != versions[2]


def test_real_weights_of_another_task_are_refused(corpus: Path, tmp_path: Path) -> None:
    settings = DetectionSettings(weights=str(corpus / "weights" / "weather-cls.pt"))
    with pytest.raises(PipelineError, match="of the task 'classify', and detections need 'detect'"):
        Models(tmp_path / "cache").weights(settings)


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
