"""The detector on an NVIDIA GPU beside `ultralytics predict`: `python -m benchmarks.gpu VIDEO WEIGHTS [DEVICE]`.

Needs torch, Ultralytics, PyAV and this project's resources; no Dagster and no tables. Prints one JSON line per figure:
frames/s of ours and of the peer (half precision, batches of 16), the share of time that the GPU is busy, where pictures
are decoded, and what decoding alone and the engine alone would allow. DEVICE may be `cpu`, to try the script where
there is no GPU.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from resources.footage import sample
from resources.inference.detector import Models
from resources.inference.gpu_footage import best_pictures
from resources.settings import DetectionSettings

_SAMPLE_EVERY_S = 0.05


class BusyShare:
    """Share of time that the GPU computes while the block runs, by its driver's own counter; None without one."""

    def __init__(self, device: str) -> None:
        self.share: float | None = None
        self._device = device
        self._ended = threading.Event()
        self._seen: list[int] = []

    def __enter__(self) -> "BusyShare":
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._seen:
            self.share = float(np.mean(self._seen)) / 100

    def _watch(self) -> None:
        import torch

        while self._device.startswith("cuda") and not self._ended.wait(_SAMPLE_EVERY_S):
            try:
                self._seen.append(torch.cuda.utilization(self._device))
            except ImportError as error:
                print(f"The GPU's busy share is not told: {error}", file=sys.stderr)
                return


def timed(work: Callable[[], int]) -> float:
    """Frames/s of work that returns how many frames it did; the better of two rounds."""
    best = 0.0
    for _ in range(2):
        started = time.monotonic()
        count = work()
        best = max(best, count / (time.monotonic() - started))
    return best


def tell(**values: Any) -> None:
    """Print figures as one JSON line."""
    print(json.dumps(values), flush=True)


def main(video: Path, weights: Path, device: str) -> int:
    """Measure and print."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        rate = Fraction(stream.average_rate or 25)
        width_px, height_px = stream.width, stream.height
        frame_count = sum(1 for packet in container.demux(stream) if packet.size)
    every = list(range(frame_count))
    settings = DetectionSettings(weights=str(weights), device=device)
    detector = Models().detector(settings, width_px, height_px, device, lambda: sample(video, 48, frame_count, rate))
    tell(engine=detector.engine_name, measured=[vars(engine) for engine in detector.measured])

    decoder = device if detector.takes_tensors else "cpu"
    first = next(best_pictures(video, every, rate, decoder))
    tell(pictures_lie_on="cpu" if isinstance(first, np.ndarray) else str(first.device))

    def ours() -> int:
        return sum(1 for _ in detector.detect(best_pictures(video, every, rate, decoder)))

    def decoding() -> int:
        return sum(1 for _ in best_pictures(video, every, rate, decoder))

    def engine_alone() -> int:
        shape = (detector._fit.input_height_px, detector._fit.input_width_px, 3)
        drawn = [np.random.default_rng(number).integers(0, 255, shape, np.uint8) for number in range(16)]
        return sum(1 for _ in detector._engine.infer(drawn[number % 16] for number in every))

    from ultralytics import YOLO

    yolo = YOLO(weights)

    def peer() -> int:
        bits = 16 if device.startswith("cuda") else 32
        asked = {"stream": True, "verbose": False, "batch": 16, "device": device}
        return sum(1 for _ in yolo.predict(str(video), quantize=bits, **asked))

    ours()  # warm-up
    with BusyShare(device) as busy:
        ours_fps = timed(ours)
    peer_fps = timed(peer)
    tell(
        ours_fps=ours_fps,
        gpu_busy_share=busy.share,
        peer_fps=peer_fps,
        ratio=ours_fps / peer_fps,
        decoding_fps=timed(decoding),
        engine_alone_fps=timed(engine_alone),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "cuda:0"))
