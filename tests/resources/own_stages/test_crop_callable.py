"""A crop model that is a callable: found without importing it, and classified in a process of its own."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from resources.errors import PipelineError
from resources.own_stages.crop_callable import CropCallable


def draw_jpeg(level: int) -> bytes:
    return bytes(cv2.imencode(".jpg", np.full((8, 8, 3), level, np.uint8))[1].tobytes())


def test_pictures_are_classified_in_batches_by_a_module_that_is_not_imported_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lamp_models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    module = package / "brightness.py"
    module.write_text(
        "def classify(images):\n"
        "    return ['no picture' if image is None else\n"
        "        [('on' if image.mean() > 128 else 'off', 0.9), (str(len(images)), 0.1)] for image in images]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    model = CropCallable("lamps", "lamp_models.brightness:classify", batch_size=2)
    answers = list(model.classify([draw_jpeg(250), draw_jpeg(5), b"no picture"]))
    assert answers == [[("on", 0.9), ("2", 0.1)], [("off", 0.9), ("2", 0.1)], "no picture"]
    assert not {"lamp_models", "lamp_models.brightness"} & set(sys.modules)
    before = model.content_hash
    module.write_text(module.read_text().replace("128", "3"))
    assert model.content_hash != before
    assert next(iter(model.classify([draw_jpeg(5)])))[0] == ("on", 0.9)  # the changed file is loaded


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package.module:classify", "has no module no_such_package: install its package, or set PYTHONPATH"),
        ("numpy.no_such_module:classify", "has no module numpy.no_such_module: install its package"),
        ("numpy", "is not of the form package.module:function"),
    ],
)
def test_a_callable_that_cannot_be_found_is_one_sentence(path: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        _ = CropCallable("lamps", path).content_hash
