"""Train the bundled street detector from scratch on drawn scenes.

Run as `python -m demo.train_model`. Images are drawn into a temporary folder, the model is trained and saved, and the
saved file is evaluated on scenes that were not used for training. The exit status is 1 if its mAP50 is below
`MIN_MAP50`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

import av
import cv2
import numpy as np

from demo.drawn_scenes.random_scenes import random_scene
from demo.drawn_scenes.rendering import draw_frame
from demo.drawn_scenes.scenes import CLASS_NAMES, Image, TruthBox

MIN_MAP50 = 0.95
IMAGE_SIZE_PX = 320  # longer side of the model's input
DEFAULT_OUTPUT = Path("demo/model/street.pt")

_ARCHITECTURE = Path(__file__).parent / "model" / "street.yaml"
_VALIDATION_IMAGES = 200
_TEST_IMAGES = 500
_SEEDS_PER_SPLIT = 1_000_000  # so that no scene is in two splits
_VIDEO_SHARE = 0.7  # share of the images that are decoded video frames
_TRAINING_SETTINGS: dict[str, Any] = {
    "imgsz": IMAGE_SIZE_PX,
    "rect": True,  # wide images without padding; also disables mosaic augmentation
    "batch": 16,
    "nbs": 16,  # one optimizer step for each batch
    "optimizer": "AdamW",
    "lr0": 0.004,
    "lrf": 0.02,
    "cos_lr": True,
    "warmup_epochs": 1.0,
    "weight_decay": 0.0005,
    "hsv_h": 0.02,
    "hsv_s": 0.3,
    "hsv_v": 0.25,
    "translate": 0.05,
    "scale": 0.15,
    "fliplr": 0.5,
    "amp": False,
}


def _isolate_ultralytics(folder: Path) -> None:
    """Keep Ultralytics off the network and out of the user's settings; to be called before its first import."""
    for name in ("ultralytics", "matplotlib"):
        (folder / name).mkdir(parents=True)
    os.environ["YOLO_OFFLINE"] = "true"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["YOLO_CONFIG_DIR"] = str(folder / "ultralytics")
    os.environ["MPLCONFIGDIR"] = str(folder / "matplotlib")


def _compress_as_video(images: list[Image], quality: int) -> Image:
    """Encode images as H.264 with a constant rate factor (`quality`), and return the last one decoded again."""
    buffer = io.BytesIO()
    options = {"preset": "veryfast", "crf": str(quality), "bf": "0", "threads": "1"}
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode(None))
    buffer.seek(0)
    with av.open(buffer, "r") as video:
        *_, last_frame = video.decode(video=0)
        return cast(Image, last_frame.to_ndarray(format="bgr24"))


def _label_line(box: TruthBox, width_px: int, height_px: int) -> str:
    """Format a box as a YOLO label: class index, then centre and size relative to the image."""
    centre_x = (box.x_min_px + box.x_max_px) / 2 / width_px
    centre_y = (box.y_min_px + box.y_max_px) / 2 / height_px
    width = (box.x_max_px - box.x_min_px) / width_px
    height = (box.y_max_px - box.y_min_px) / height_px
    return f"{CLASS_NAMES.index(box.class_name)} {centre_x:.6f} {centre_y:.6f} {width:.6f} {height:.6f}\n"


def draw_split(folder: Path, split: str, count: int, first_seed: int) -> None:
    """Draw labelled images, each of another scene, most of them as decoded video frames.

    Args:
        folder: Folder of the data set; images are written to images/<split>, labels to labels/<split>.
        split: Name of the split.
        count: Number of images.
        first_seed: Seed of the first scene; each further scene has the next seed.
    """
    images_folder, labels_folder = folder / "images" / split, folder / "labels" / split
    images_folder.mkdir(parents=True)
    labels_folder.mkdir(parents=True)
    for seed in range(first_seed, first_seed + count):
        rng = np.random.default_rng((3, seed))
        scene = random_scene(seed)
        time_s = float(rng.uniform(0.5, scene.duration_s))
        image, boxes = draw_frame(scene, time_s)
        jpeg_quality = int(rng.integers(40, 96))
        if rng.random() < _VIDEO_SHARE:
            frame_s = float(1 / scene.frame_rate)
            earlier_images = [draw_frame(scene, time_s - steps * frame_s)[0] for steps in (3, 2, 1)]
            image = _compress_as_video([*earlier_images, image], int(rng.integers(18, 36)))
            jpeg_quality = 95
        name = f"{seed:08d}"
        cv2.imwrite(str(images_folder / f"{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality])
        lines = [_label_line(box, scene.width_px, scene.height_px) for box in boxes]
        (labels_folder / f"{name}.txt").write_text("".join(lines), encoding="utf-8")


def _draw_data_set(folder: Path, image_count: int, seed: int) -> Path:
    """Draw all splits; returns the YAML file that describes the data set."""
    counts = {"train": image_count, "val": _VALIDATION_IMAGES, "test": _TEST_IMAGES}
    for number, (split, count) in enumerate(counts.items()):
        draw_split(folder, split, count, (3 * seed + number) * _SEEDS_PER_SPLIT)
    description = {
        "path": str(folder),
        **{split: f"images/{split}" for split in counts},
        "names": dict(enumerate(CLASS_NAMES)),
    }
    path = folder / "street-data.yaml"
    path.write_text(json.dumps(description), encoding="utf-8")  # JSON is YAML
    return path


def _save_for_inference(checkpoint_path: Path, output: Path, settings: dict[str, Any]) -> int:
    """Save the part of a checkpoint that inference needs, in half precision and without paths.

    Args:
        checkpoint_path: File of the checkpoint that the training wrote.
        output: File for the weights.
        settings: Training settings to store in the file.

    Returns:
        The number of parameters.
    """
    import torch

    checkpoint = torch.load(checkpoint_path, map_location="cpu", weights_only=False)
    model = (checkpoint.get("ema") or checkpoint["model"]).half()
    model.args = {"task": "detect", **settings}
    model.yaml["yaml_file"] = _ARCHITECTURE.name
    for name in ("criterion", "pt_path"):
        if hasattr(model, name):
            delattr(model, name)
    for parameter in model.parameters():
        parameter.requires_grad = False
    inference_checkpoint = {
        "epoch": -1,
        "best_fitness": None,
        "model": model,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": model.args,
        "version": checkpoint["version"],
        "license": checkpoint["license"],
        "docs": checkpoint["docs"],
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + ".partial")
    torch.save(inference_checkpoint, partial)
    partial.replace(output)
    return sum(parameter.numel() for parameter in model.parameters())


def train(output: Path, *, epochs: int, image_count: int, seed: int) -> dict[str, Any]:
    """Draw the data set, train the model, save and evaluate it.

    Args:
        output: File for the weights; a JSON file of the same name describes them.
        epochs: Number of passes over the training images.
        image_count: Number of training images.
        seed: Seed of the scenes and of the training.

    Returns:
        The contents of the JSON file, with "map50" and "map50_95" on scenes not used for training.
    """
    with tempfile.TemporaryDirectory(prefix="street-model-") as temporary:
        folder = Path(temporary)
        _isolate_ultralytics(folder / "settings")
        import torch
        import ultralytics

        data = _draw_data_set(folder / "data", image_count, seed)
        model = ultralytics.YOLO(str(_ARCHITECTURE), task="detect")
        common: dict[str, Any] = {
            "data": str(data),
            "device": "cpu",
            "workers": 0,
            "plots": False,
            "project": str(folder / "runs"),
        }
        settings = {**_TRAINING_SETTINGS, "epochs": epochs, "seed": seed}
        model.add_callback("on_train_start", lambda _: torch.set_num_threads(os.cpu_count() or 1))
        model.train(**common, **settings, pretrained=False, patience=0, name="train")
        parameters = _save_for_inference(Path(model.trainer.best), output, settings)

        saved_model = ultralytics.YOLO(str(output))
        metrics = saved_model.val(**common, split="test", imgsz=IMAGE_SIZE_PX, batch=16, name="test")
        report = {
            "classes": list(CLASS_NAMES),
            "imgsz": IMAGE_SIZE_PX,
            "parameters": parameters,
            "map50": round(float(metrics.box.map50), 4),
            "map50_95": round(float(metrics.box.map), 4),
            "epochs": epochs,
            "pictures": image_count,
            "test_pictures": _TEST_IMAGES,
            "seed": seed,
            "ultralytics": ultralytics.__version__,
            "file_size_bytes": output.stat().st_size,
        }
    output.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


def main(arguments: list[str] | None = None) -> int:
    """Train the model from the command line.

    Args:
        arguments: Arguments after the program's name; None means those of the process.

    Returns:
        The exit status: 0 if the model reaches `MIN_MAP50`, else 1.
    """
    parser = argparse.ArgumentParser(prog="python -m demo.train_model", description="Train the bundled detector.")
    parser.add_argument("--epochs", type=int, default=32, help="passes over the training images (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=2400, help="number of training images (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of scenes and training (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, help="file for the weights (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    report = train(
        options.output.resolve(),
        epochs=options.epochs,
        image_count=options.pictures,
        seed=options.seed,
    )
    print(f"mAP50 {report['map50']:.4f}, mAP50-95 {report['map50_95']:.4f} on {_TEST_IMAGES} unseen scenes")
    if report["map50"] < MIN_MAP50:
        print(f"The mAP50 {report['map50']:.4f} is below the minimum of {MIN_MAP50}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
