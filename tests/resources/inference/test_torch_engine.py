import numpy as np
import pytest
import torch

from resources.config.detection_config import DetectionSettings
from resources.errors import PipelineError
from resources.inference.detector import Models
from resources.inference.engines.torch_engine import TorchEngine
from resources.inference.letterbox import Letterbox
from resources.inference.weights import load_weights
from tests.builders.locations import BUNDLED_WEIGHTS


@pytest.fixture
def engine() -> TorchEngine:
    model = load_weights(DetectionSettings(weights=str(BUNDLED_WEIGHTS)), Models().cache_folder)
    return TorchEngine(model, Letterbox.for_stride(320, 180, 320), "cpu", "f32")


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(torch.OutOfMemoryError("full"), id="torch"),
        pytest.param(RuntimeError("CUDA error: out of memory"), id="CUDA"),
        pytest.param(
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), id="cuBLAS"
        ),
    ],
)
def test_a_batch_that_does_not_fit_into_memory_is_run_again_in_smaller_batches(
    error: RuntimeError, engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [np.full((192, 320, 3), number, np.uint8) for number in range(11)]
    expected = [outputs[0].copy() for outputs in engine.infer(images)]
    batch_sizes: list[int] = []
    run = engine._run

    def run_at_most_two(batch: torch.Tensor) -> list[torch.Tensor]:
        batch_sizes.append(len(batch))
        if len(batch) > 2:
            raise error
        return run(batch)

    monkeypatch.setattr(engine, "_run", run_at_most_two)
    engine.batch = 8
    batched = [outputs[0].copy() for outputs in engine.infer(images)]
    assert len(batched) == 11
    assert engine.batch == 2
    # The batches of 8 and 3 were submitted before the first error; then no batch is larger than the reduced size.
    assert batch_sizes == [8, 3, 4, 2, 2, 2, 2, 2, 1]
    assert all(np.allclose(output, other, atol=1e-3) for output, other in zip(expected, batched, strict=True))


def test_other_errors_of_the_network_are_raised(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: torch.Tensor) -> list[torch.Tensor]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    engine.batch = 4
    monkeypatch.setattr(engine, "_run", fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(engine.infer([np.zeros((192, 320, 3), np.uint8)] * 5))


def test_too_little_memory_for_a_single_frame_is_an_error_that_names_the_device(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: torch.Tensor) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("out of memory")

    engine.batch = 4
    monkeypatch.setattr(engine, "_run", fail)
    with pytest.raises(PipelineError, match="device cpu has no memory left for a single frame: end other programs"):
        list(engine.infer([np.zeros((192, 320, 3), np.uint8)] * 5))
