"""Reads text in pictures with RapidOCR on OpenVINO; the models are in its package, nothing is downloaded."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from resources.errors import PipelineError

_MIN_SIDE_PX = 320  # to which smaller pictures are enlarged to find lines; the package's 736 take four times as long


@dataclass(frozen=True)
class TextLine:
    """A line of text in a picture.

    Attributes:
        text: The text.
        confidence: Mean confidence of its characters.
        xyxy: Corners of its upright box, float array of shape (4,), in pixels of the picture.
    """

    text: str
    confidence: float
    xyxy: np.ndarray


def check_text_reader() -> None:
    """Check that the package that reads text is installed.

    Raises:
        PipelineError: It is not.
    """
    if find_spec("rapidocr") is None:
        raise PipelineError(
            "rapidocr is not installed: run pip install 'cv-assets[text]', or leave out what reads text: crop models "
            "with weights: rapidocr, camera_clock, and plate on clips and privacy copies."
        )


def text_reader_id() -> str:
    """Name and version of the package that reads text; the name alone where it is not installed."""
    try:
        return f"rapidocr-{version('rapidocr')}"
    except PackageNotFoundError:
        return "rapidocr"


@functools.cache
def _load_reader() -> Any:
    """Load the models of the package; they stay loaded.

    Raises:
        PipelineError: The package is not installed.
    """
    check_text_reader()
    import rapidocr
    from rapidocr import EngineType, RapidOCR

    models = Path(rapidocr.__file__).parent / "models"
    files = {
        "Det": models / "PP-OCRv6_det_small.onnx",
        "Rec": models / "PP-OCRv6_rec_small.onnx",
        "Cls": models / "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    }
    parameters: dict[str, Any] = {
        "Global.log_level": "error",
        "Global.use_cls": False,
        "Det.limit_side_len": _MIN_SIDE_PX,
    }
    for part, file in files.items():
        parameters |= {f"{part}.engine_type": EngineType.OPENVINO, f"{part}.model_path": str(file)}
    return RapidOCR(params=parameters)


def read_text(image: np.ndarray) -> Sequence[TextLine]:
    """Read the lines of text in a picture, most confident first.

    Args:
        image: uint8 BGR array of shape (height_px, width_px, 3).

    Raises:
        PipelineError: The package that reads text is not installed.
    """
    result = _load_reader()(np.ascontiguousarray(image))
    return sorted(_lines(result), key=lambda line: -line.confidence)


def _lines(result: Any) -> Iterator[TextLine]:
    if result.txts is None:
        return
    for text, score, corners in zip(result.txts, result.scores, result.boxes, strict=True):
        points = np.asarray(corners, float)
        if text.strip():
            yield TextLine(text.strip(), float(score), np.concatenate([points.min(axis=0), points.max(axis=0)]))
