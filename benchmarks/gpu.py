"""The detector on an NVIDIA GPU beside `ultralytics predict`: `python -m benchmarks.gpu VIDEO WEIGHTS [DEVICE]`.

Needs torch, Ultralytics, PyAV and this project's resources; no Dagster and no tables. Prints one JSON line per figure:
frames/s of ours and of the peer (half precision, batches of 16), the shares of time that the GPU's cores and its video
decoder are busy, where pictures are decoded, and what decoding alone (the video decoder's own work, and with colours
made) and the engine alone would allow: ours is decode-bound where it is as fast as decoding. Take a video of a minute
or more. DEVICE may be `cpu`, to try the script where there is no GPU.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from resources.footage import frames, sample
from resources.inference.detector import Models, device_name
from resources.inference.gpu_footage import best_pictures, hardware_decoder
from resources.settings import DetectionSettings

_SAMPLE_EVERY_MS = 100


class BusyShares:
    """Shares of time that the GPU's cores and its video decoder work while the block runs, as its driver counts them.

    The first second, in which a decoder is opened and proven, is left out where there is more. `cores` and `decoder`
    stay None where the driver tells nothing.
    """

    def __init__(self, device: str) -> None:
        self.cores: float | None = None
        self.decoder: float | None = None
        self._device = device
        self._seen: list[tuple[float, float, float]] = []

    def __enter__(self) -> "BusyShares":
        self._asking: subprocess.Popen[str] | None = None
        if self._device.startswith("cuda"):
            import torch

            asked = "--query-gpu=utilization.gpu,utilization.decoder"
            gpu = f"--id=GPU-{torch.cuda.get_device_properties(self._device).uuid}"
            command = ["nvidia-smi", gpu, asked, "--format=csv,noheader,nounits", f"--loop-ms={_SAMPLE_EVERY_MS}"]
            try:
                self._asking = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            except OSError as error:
                print(f"The GPU's busy shares are not told: {error}", file=sys.stderr)
        self._thread = threading.Thread(target=self._read)
        self._started = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._asking is not None:
            self._asking.terminate()
        self._thread.join()
        later = [seen for seen in self._seen if seen[0] > 1.0] or self._seen
        if later:
            self.cores, self.decoder = (float(np.mean([seen[share] for seen in later]) / 100) for share in (1, 2))

    def _read(self) -> None:
        for line in self._asking.stdout or () if self._asking else ():
            try:
                cores, decoder = (float(value) for value in line.split(","))
            except ValueError:
                print(f"The GPU's busy shares are not told: {line.strip()}", file=sys.stderr)
                continue
            self._seen.append((time.monotonic() - self._started, cores, decoder))


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
    tell(
        video=f"{width_px}x{height_px}, {frame_count} frames",
        device=device_name(device),
        engine=detector.engine_name,
        batch=detector._engine.batch,
        measured=[vars(engine) for engine in detector.measured],
    )

    decoder = device if detector.takes_tensors else "cpu"
    first = next(best_pictures(video, every, rate, decoder))
    on_gpu = not isinstance(first, np.ndarray)
    tell(pictures_lie_on=str(first.device) if on_gpu else "cpu")

    def ours() -> int:
        return sum(1 for _ in detector.detect(best_pictures(video, every, rate, decoder)))

    def decoding() -> int:
        return sum(1 for _ in best_pictures(video, every, rate, decoder))

    def decoder_alone() -> int:
        return sum(1 for _ in frames(video, every, rate, hardware_decoder(device) if on_gpu else None))

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
    with BusyShares(device) as busy:
        ours_fps = timed(ours)
    peer_fps = timed(peer)
    tell(
        ours_fps=ours_fps,
        cores_busy_share=busy.cores,
        decoder_busy_share=busy.decoder,
        peer_fps=peer_fps,
        ratio=ours_fps / peer_fps,
        decoder_alone_fps=timed(decoder_alone),
        decoding_fps=timed(decoding),
        engine_alone_fps=timed(engine_alone),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "cuda:0"))
