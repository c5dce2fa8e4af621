"""Teaching by example, on drawn persons: `python -m benchmarks.teaching` measures these cases alone.

Each of several attributes is taught with the crops of 20 persons that have it and of 20 that have not, which differ in
everything else; all other persons are tested as the pipeline does, by the vote of the three crops of a track.
"""

import time
from collections.abc import Iterator
from itertools import product

import click
import numpy as np

from benchmarks.drawn_attributes import ATTRIBUTES, draw_tracks
from benchmarks.embedding_model import load_embedding
from benchmarks.report import Case, describe_machine, figure_case, max_case, min_case, print_table
from cli.options import end_process
from cv_assets.crop_classes import probe_rows, vote_rows
from resources.inference.detector import Detector
from resources.inference.linear_probe import FEATURES, LinearProbe, ProbeTraining, train_probe

_TAUGHT, _TRACKS, _SEED = 20, 240, 1
_MIN_CONFIDENCE = 0.5  # of a crop that votes, as in the settings


def teach_cases(detector: Detector) -> Iterator[Case]:
    """Teach each attribute and test it on persons that were not seen."""
    tracks = draw_tracks(_TRACKS, _SEED)
    rows = [embedding.features for embedding in detector.embed(crop for track in tracks.crops for crop in track)]
    features = np.array(rows, np.float32).reshape(_TRACKS, len(tracks.crops[0]), -1)
    durations_s = []
    for number, name in enumerate(ATTRIBUTES):
        has = tracks.has_attribute[:, number]
        taught = np.concatenate([np.flatnonzero(has == kind)[:_TAUGHT] for kind in (True, False)])
        crop_count = features.shape[1]
        started_s = time.perf_counter()
        training = train_probe(
            features[taught].reshape(len(taught) * crop_count, -1),
            np.repeat(has[taught], crop_count),
            np.repeat(taught, crop_count).tolist(),
        )
        durations_s.append(time.perf_counter() - started_s)
        unseen = np.setdiff1d(np.arange(_TRACKS), taught)
        is_right = _vote(name, training, features[unseen]) == np.where(has[unseen], name, f"not {name}")
        share = float(np.mean([is_right[has[unseen] == kind].mean() for kind in (True, False)]))
        yield min_case(f"taught {name}, 20 + 20: {len(unseen)} unseen tracks right", share, "share", 0.95)
        yield figure_case("the same, as cross-validation says", training.accuracy)
    yield max_case("teaching takes at most", max(durations_s), "s", 10)


def _vote(name: str, training: ProbeTraining, features: np.ndarray) -> np.ndarray:
    """Class for which the crops of each track vote.

    Args:
        name: Name of the attribute.
        training: The trained probe.
        features: Shape (tracks, crops, values).
    """
    probe = LinearProbe(name, "m", training.weights, training.bias, FEATURES)
    rows = [
        {"recording_id": "r", "track_id": track, "rank": crop + 1, "model_id": "m", "error": None}
        | {"features": features[track, crop].astype(np.float16).tobytes()}
        for track, crop in product(range(len(features)), range(features.shape[1]))
    ]
    votes = vote_rows(probe_rows(rows, probe, 1, "m"), _MIN_CONFIDENCE)
    return np.array([vote["class_name"] for vote in votes])


if __name__ == "__main__":
    click.echo(f"Measuring on {describe_machine()}")
    print_table(list(teach_cases(load_embedding())))
    end_process(0)
