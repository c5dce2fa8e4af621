"""Write a scene as a video, and its ground truth as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import av
from av.video import VideoStream

from demo.drawn_scenes.rendering import draw_frame
from demo.drawn_scenes.scenes import Scene


def write_video(
    scene: Scene,
    path: Path,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    options: Mapping[str, str] | None = None,
) -> None:
    """Write a scene as a video without audio, at its constant frame rate.

    Args:
        scene: The scene.
        path: The video file; its extension determines the container format.
        codec: FFmpeg name of the encoder.
        pixel_format: FFmpeg name of the pixel format.
        options: Encoder options; for libx264 the default is {"preset": "veryfast", "crf": "21"}.
    """
    if options is None:
        options = {"preset": "veryfast", "crf": "21"} if codec == "libx264" else {}
    # Bit-exact: otherwise Matroska writes a random number, and the same scene would be a new recording each time.
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=scene.frame_rate, options=dict(options)))
        stream.width, stream.height, stream.pix_fmt = scene.width_px, scene.height_px, pixel_format
        stream.time_base = 1 / scene.frame_rate
        for index in range(scene.frame_count):
            image, _ = draw_frame(scene, scene.frame_time_s(index))
            frame = av.VideoFrame.from_ndarray(image, format="bgr24")
            frame.pts, frame.time_base = index, 1 / scene.frame_rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def scene_truth(scene: Scene, file_name: str) -> dict[str, Any]:
    """Compute the ground truth of a scene that is written as a video.

    Args:
        scene: The scene.
        file_name: Name of the video.

    Returns:
        The contents of the JSON file: "file", "frame_count", "frame_rate" (frames per second), "frame_rate_fraction"
        (the same, exact, as text), "width_px", "height_px", "objects" (object_id, class_name and the times of the first
        and last frame with a box of the object) and "boxes" (for each frame a list of the fields of `TruthBox`).
        Objects that are never visible enough for a box are left out.
    """
    frames = [draw_frame(scene, scene.frame_time_s(index))[1] for index in range(scene.frame_count)]
    objects: dict[int, dict[str, Any]] = {}
    for index, boxes in enumerate(frames):
        time_s = scene.frame_time_s(index)
        for box in boxes:
            new_object = {"object_id": box.object_id, "class_name": box.class_name, "first_time_s": time_s}
            objects.setdefault(box.object_id, new_object)["last_time_s"] = time_s
    return {
        "file": file_name,
        "frame_count": scene.frame_count,
        "frame_rate": float(scene.frame_rate),
        "frame_rate_fraction": str(scene.frame_rate),
        "width_px": scene.width_px,
        "height_px": scene.height_px,
        "objects": [objects[object_id] for object_id in sorted(objects)],
        "boxes": [[asdict(box) for box in boxes] for boxes in frames],
    }


def write_truth(scene: Scene, path: Path, *, file_name: str | None = None) -> None:
    """Write the ground truth of a scene as JSON (see `scene_truth`).

    Args:
        scene: The scene.
        path: The JSON file.
        file_name: Name of the scene's video; None means that of the JSON file with the extension .mp4.
    """
    truth = scene_truth(scene, file_name or path.with_suffix(".mp4").name)
    path.write_text(json.dumps(truth) + "\n", encoding="utf-8")
