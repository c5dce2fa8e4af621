"""Draws a random, stratified sample of counted events and of stretches of time in which one may have been missed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from resources.errors import PipelineError

# The share of a stratum in the sample, relative to its size: where errors are likely, more is looked at. Stretches
# differ little, because a miss in one that was hardly looked at would decide the upper bound alone.
_SHARES: Mapping[str, float] = {
    "doubtful": 2.0,
    "certain": 1.0,
    "with counted": 2.0,
    "with boxes": 1.5,
    "empty": 1.0,
}
STRATA: Mapping[str, tuple[str, ...]] = {
    "event": ("doubtful", "certain"),
    "stretch": ("with counted", "with boxes", "empty"),
}
"""Groups of items. Events are doubtful if their track is; stretches are grouped by what the pipeline has there."""
MIN_ITEMS = 10
"""The least number of items of each count."""


@dataclass(frozen=True)
class AuditItem:
    """A counted event, or a stretch of time.

    Attributes:
        count_name: What is counted, such as `line gate`.
        kind: `event` or `stretch`.
        stratum: One of `STRATA`.
        recording_id: The recording.
        start_s: Media time of the event, or at which the stretch begins.
        end_s: The same as start_s, or at which the stretch ends.
        order: Place in the order of the clock.
        track_id: Track of the event.
        class_name: Class of the event.
        event: What the event is: in, out, enter, or the object itself.
        stratum_size: Number of items of the stratum, in a sample.
    """

    count_name: str
    kind: str
    stratum: str
    recording_id: str
    start_s: float
    end_s: float
    order: float = field(default=0.0, compare=False)
    track_id: int | None = None
    class_name: str | None = None
    event: str | None = None
    stratum_size: int = field(default=0, compare=False)

    @property
    def identity(self) -> tuple[str, str, str, float, int | None]:
        """What makes it the same item in another sample."""
        return self.count_name, self.kind, self.recording_id, round(self.start_s, 3), self.track_id


@dataclass(frozen=True)
class AuditSample:
    """The items to look at, in the order in which a person should.

    Attributes:
        audit_id: Its id.
        counts_id: Hash of the items from which it was drawn.
        camera: The camera.
        items: The sample.
    """

    audit_id: str
    counts_id: str
    camera: str
    items: Sequence[AuditItem]


def draw_sample(
    camera: str,
    population: Sequence[AuditItem],
    count: int,
    seed: int,
    looked_at: frozenset[tuple[str, str, str, float, int | None]] = frozenset(),
) -> AuditSample:
    """Draw a sample: each count has the same number of items, half of them events where there are enough.

    Within a stratum, items are sorted by class and time and divided into as many parts as items are drawn, one at
    random from each. So hours and classes have their shares (Cochran 1977, Sampling Techniques, chapters 5 and 8).

    Args:
        camera: The camera.
        population: All events and stretches of the camera.
        count: Number of items to draw.
        seed: Seed of the random generator.
        looked_at: Identities of items that have an answer; they are not drawn again.

    Raises:
        PipelineError: The sample is too small for the number of counts, or everything has been looked at.
    """
    names = sorted({item.count_name for item in population})
    if count < MIN_ITEMS * len(names):
        raise PipelineError(
            f"--sample {count} is too small: the camera {camera!r} has {len(names)} "
            f"count{'s' * (len(names) != 1)} ({', '.join(names)}), and each needs {MIN_ITEMS}: "
            f"--sample {MIN_ITEMS * len(names)}."
        )
    rng = np.random.default_rng(seed)
    items: list[AuditItem] = []
    for number, name in enumerate(names):
        of_count = [item for item in population if item.count_name == name]
        share = count // len(names) + (number < count % len(names))
        left = {kind: sum(i.kind == kind and i.identity not in looked_at for i in of_count) for kind in STRATA}
        events = min(max(share // 2, share - left["stretch"]), left["event"])
        for kind, kind_share in (("event", events), ("stretch", share - events)):
            of_kind = [item for item in of_count if item.kind == kind]
            items += _draw_kind(of_kind, kind_share, looked_at, rng)
    if not items:
        raise PipelineError(
            f"The camera {camera!r} has nothing left to look at: every event and stretch has an answer."
        )
    shuffled = [items[position] for position in rng.permutation(len(items))]
    shuffled.sort(key=lambda item: item.stratum != "doubtful")
    counts_id = hash_counts(population)
    return AuditSample(_hash([counts_id, seed, sorted(map(repr, looked_at))]), counts_id, camera, shuffled)


def hash_counts(population: Sequence[AuditItem]) -> str:
    """Hash of all events and stretches; it changes with each of them."""
    rows = sorted([*item.identity, item.stratum] for item in population) if population else []
    return _hash(rows)


def _hash(content: object) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()


def _draw_kind(
    items: Sequence[AuditItem],
    count: int,
    looked_at: frozenset[tuple[str, str, str, float, int | None]],
    rng: np.random.Generator,
) -> list[AuditItem]:
    strata: dict[str, list[AuditItem]] = {}
    for item in items:
        strata.setdefault(item.stratum, []).append(item)
    unseen = {
        name: sorted(
            (item for item in members if item.identity not in looked_at),
            key=lambda item: (item.class_name or "", item.order),
        )
        for name, members in strata.items()
    }
    sizes = {name: len(members) for name, members in unseen.items()}
    drawn: list[AuditItem] = []
    for name, number in allocate(count, sizes).items():
        parts = np.array_split(np.arange(sizes[name]), number) if number else []
        # Parts differ by one in size; the longer ones are at random places.
        lengths = rng.permutation([len(part) for part in parts])
        starts = np.cumsum(lengths) - lengths
        positions = starts + (rng.random(len(lengths)) * lengths).astype(int)
        drawn += [replace(unseen[name][position], stratum_size=len(strata[name])) for position in positions]
    return drawn


def allocate(count: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Divide a number of items among strata: at least one of each, and never more than there are.

    Args:
        count: Number of items.
        sizes: Number of items by stratum.
    """
    numbers = {name: min(1, size) for name, size in sizes.items()}
    while sum(numbers.values()) < min(count, sum(sizes.values())):
        open_names = [name for name, size in sizes.items() if numbers[name] < size]
        # The next one goes where each drawn item stands for most (the method of Sainte-Laguë).
        best = max(open_names, key=lambda name: sizes[name] * _SHARES[name] / (numbers[name] + 0.5))
        numbers[best] += 1
    return numbers


def sample_content(sample: AuditSample) -> dict[str, object]:
    """The sample as JSON values, for the page and the file of answers."""
    items = [{name: value for name, value in asdict(item).items() if name != "order"} for item in sample.items]
    return {"audit_id": sample.audit_id, "counts_id": sample.counts_id, "camera": sample.camera, "items": items}
