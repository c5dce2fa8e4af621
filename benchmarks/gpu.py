"""The detector on an NVIDIA GPU beside `ultralytics predict`: `python -m benchmarks.gpu VIDEO WEIGHTS [DEVICE]`.

Needs torch, Ultralytics, PyAV and this project's resources; no Dagster and no tables. Prints one JSON line per group of
figures: frames/s of this project and of the peer (half precision, batches of 16), the shares of time that the GPU's
cores and its video decoder are busy, where frames are decoded, and the frames/s of decoding alone (the video decoder
itself, and with the conversion to BGR) and of the engine alone: the detector is decode-bound where it is as fast as
decoding. Use a video of a minute or more. DEVICE may be `cpu`, to try the script on a machine without a GPU.
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

from resources.config.detection_config import DetectionSettings
from resources.inference.detector import Models
from resources.inference.devices import device_name
from resources.inference.engine_selection import MEASURED_AFTER_FRAMES, Footage
from resources.inference.gpu_frames import decode_on_best_device, hardware_decoder
from resources.media.frame_reader import decode_frames, sample_images

_SAMPLE_INTERVAL_MS = 100


class BusyShares:
    """Shares of time that the GPU's cores and its video decoder are busy while the block runs, read from its driver.

    The first second, in which a decoder is opened and checked, is left out if there is more.

    Attributes:
        cores: Share of time in [0, 1]; None where the driver does not report it.
        decoder: The same of the video decoder.
    """

    def __init__(self, device: str) -> None:
        self.cores: float | None = None
        self.decoder: float | None = None
        self._device = device
        self._samples: list[tuple[float, float, float]] = []

    def __enter__(self) -> "BusyShares":
        self._nvidia_smi: subprocess.Popen[str] | None = None
        if self._device.startswith("cuda"):
            import torch

            query = "--query-gpu=utilization.gpu,utilization.decoder"
            gpu = f"--id=GPU-{torch.cuda.get_device_properties(self._device).uuid}"
            command = ["nvidia-smi", gpu, query, "--format=csv,noheader,nounits", f"--loop-ms={_SAMPLE_INTERVAL_MS}"]
            try:
                self._nvidia_smi = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            except OSError as error:
                print(f"The GPU's busy shares are unknown: {error}", file=sys.stderr)
        self._thread = threading.Thread(target=self._read)
        self._started_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._nvidia_smi is not None:
            self._nvidia_smi.terminate()
        self._thread.join()
        samples = [sample for sample in self._samples if sample[0] > 1.0] or self._samples
        if samples:
            self.cores, self.decoder = (
                float(np.mean([sample[column] for sample in samples]) / 100) for column in (1, 2)
            )

    def _read(self) -> None:
        for line in self._nvidia_smi.stdout or () if self._nvidia_smi else ():
            try:
                cores, decoder = (float(value) for value in line.split(","))
            except ValueError:
                print(f"The GPU's busy shares are unknown: {line.strip()}", file=sys.stderr)
                continue
            self._samples.append((time.monotonic() - self._started_s, cores, decoder))


def measure_fps(process: Callable[[], int]) -> float:
    """Frames/s of a function that returns how many frames it processed; the better of two rounds."""
    best_fps = 0.0
    for _ in range(2):
        started_s = time.monotonic()
        frame_count = process()
        best_fps = max(best_fps, frame_count / (time.monotonic() - started_s))
    return best_fps


def print_figures(**figures: Any) -> None:
    """Print figures as one JSON line."""
    print(json.dumps(figures), flush=True)


def main(video: Path, weights: Path, device: str) -> int:
    """Measure and print."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        rate_fps = Fraction(stream.average_rate or 25)
        width_px, height_px = stream.width, stream.height
        frame_count = sum(1 for packet in container.demux(stream) if packet.size)
    frame_indices = list(range(frame_count))
    settings = DetectionSettings(weights=str(weights), device=device)
    footage = Footage(MEASURED_AFTER_FRAMES, lambda: sample_images(video, 48, frame_count, rate_fps))
    detector = Models().detector(settings, width_px, height_px, device, footage)
    print_figures(
        video=f"{width_px}x{height_px}, {frame_count} frames",
        device=device_name(device),
        engine=detector.engine_name,
        batch=detector._engine.batch,
        measured=[vars(engine) for engine in detector.measurements],
    )

    decode_device = device if detector.accepts_tensors else "cpu"
    first_image = next(decode_on_best_device(video, frame_indices, rate_fps, decode_device))
    is_on_gpu = not isinstance(first_image, np.ndarray)
    print_figures(decoded_on=str(first_image.device) if is_on_gpu else "cpu")

    def detect() -> int:
        return sum(1 for _ in detector.detect(decode_on_best_device(video, frame_indices, rate_fps, decode_device)))

    def decode_to_bgr() -> int:
        return sum(1 for _ in decode_on_best_device(video, frame_indices, rate_fps, decode_device))

    def decode_only() -> int:
        decoder = hardware_decoder(device) if is_on_gpu else None
        return sum(1 for _ in decode_frames(video, frame_indices, rate_fps, decoder))

    def infer_only() -> int:
        shape = (detector._fit.input_height_px, detector._fit.input_width_px, 3)
        images = [np.random.default_rng(number).integers(0, 255, shape, np.uint8) for number in range(16)]
        return sum(1 for _ in detector._engine.infer(images[index % 16] for index in frame_indices))

    from ultralytics import YOLO

    yolo = YOLO(weights)

    def predict_with_ultralytics() -> int:
        bits = 16 if device.startswith("cuda") else 32
        options = {"stream": True, "verbose": False, "batch": 16, "device": device}
        return sum(1 for _ in yolo.predict(str(video), quantize=bits, **options))

    detect()  # warm-up
    with BusyShares(device) as busy:
        ours_fps = measure_fps(detect)
    peer_fps = measure_fps(predict_with_ultralytics)
    print_figures(
        ours_fps=ours_fps,
        cores_busy_share=busy.cores,
        decoder_busy_share=busy.decoder,
        peer_fps=peer_fps,
        ratio=ours_fps / peer_fps,
        decoder_alone_fps=measure_fps(decode_only),
        decoding_fps=measure_fps(decode_to_bgr),
        engine_alone_fps=measure_fps(infer_only),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "cuda:0"))
