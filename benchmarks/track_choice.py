"""Leave-one-out over the real sequences: `python -m benchmarks.track_choice` takes some minutes.

For each sequence, the settings that are best on the others are chosen among neighbours of the defaults, and scored on
it. Where the mean over all sequences is close to that of the defaults, they are no fit to the sequences.
"""

from collections.abc import Mapping

import click
import numpy as np

from benchmarks.report import min_case, print_table
from benchmarks.track_metrics import Scores, mean_scores, score_tracks
from benchmarks.track_sequences import read_mot_sequences
from benchmarks.tracking import REAL_GOALS, track_with_ours
from cli.options import end_process
from resources.config.tracking_config import TrackSettings

_VARIANTS: Mapping[str, tuple[float, ...]] = {
    "high_confidence": (0.2, 0.35),
    "new_track_confidence": (0.2, 0.35),
    "match_threshold": (0.7, 0.9),
    "lost_s": (0.3, 1.0),
    "link_s": (2.0, 5.0),
    "min_link_confidence": (0.5, 0.7, 0.8),
    "min_duration_s": (0.2, 0.6),
    "min_best_confidence": (0.4, 0.6),
}


def main() -> None:
    """Score every variant on every sequence, and print the means by leave-one-out."""
    sequences = read_mot_sequences()
    variants = [TrackSettings()] + [
        TrackSettings.model_validate({name: value}) for name, values in _VARIANTS.items() for value in values
    ]
    scores: list[list[Scores]] = [
        [score_tracks(crowd.truth, track_with_ours(crowd, settings)[0]) for crowd in sequences.values()]
        for settings in variants
    ]
    total = np.array([[score.hota + score.idf1 + score.mota for score in row] for row in scores])
    chosen = []
    for number, name in enumerate(sequences):
        best = int(np.delete(total, number, axis=1).mean(axis=1).argmax())
        chosen.append(scores[best][number])
        changes = variants[best].model_dump(exclude_defaults=True) or "the defaults"
        click.echo(f"{name}: the others choose {changes}; HOTA {100 * chosen[-1].hota:.1f}")
    default, by_others = mean_scores(scores[0]), mean_scores(chosen)
    click.echo(f"mean with the defaults: HOTA {100 * default.hota:.1f} IDF1 {100 * default.idf1:.1f} "
               f"MOTA {100 * default.mota:.1f}")  # fmt: skip
    cases = [
        min_case(f"leave-one-out: mean {metric.upper()}", getattr(by_others, metric), "share", goal)
        for metric, goal in REAL_GOALS.items()
    ]
    print_table(cases)


if __name__ == "__main__":
    main()
    end_process(0)
