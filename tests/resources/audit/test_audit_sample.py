"""Samples of audits: random, stratified, in the right order, never the same item twice."""

from collections import Counter
from dataclasses import replace

import pytest

from resources.audit.audit_sample import AuditItem, allocate, draw_sample, hash_counts
from resources.errors import PipelineError

EVENT = AuditItem("line gate", "event", "certain", "r", 0.0, 0.0, track_id=1, class_name="person", event="in")


def population(event_count: int = 300, stretch_count: int = 600) -> list[AuditItem]:
    """Events, one in ten doubtful and a third bicycles, and stretches of 4 s, in the order of time."""
    events = [
        replace(
            EVENT,
            stratum="certain" if number % 10 else "doubtful",
            class_name="person" if number % 3 else "bicycle",
            start_s=8.0 * number,
            order=8.0 * number,
            track_id=number,
        )
        for number in range(event_count)
    ]
    stretches = [
        AuditItem("line gate", "stretch", ("with counted", "empty")[number % 2], "r", 4.0 * number, 4.0 * number + 4,
                  order=4.0 * number)
        for number in range(stretch_count)
    ]  # fmt: skip
    return [*events, *stretches]


def test_a_sample_has_classes_hours_and_doubtful_tracks_with_their_shares_and_doubtful_ones_first() -> None:
    sample = draw_sample("gate", population(), 120, seed=3)
    strata = Counter(item.stratum for item in sample.items)
    assert sum(strata.values()) == 120
    assert strata["doubtful"] + strata["certain"] == 60
    assert strata["doubtful"] == 11  # a tenth of the events, twice as often
    assert [item.stratum for item in sample.items[:11]] == ["doubtful"] * 11
    certain = [item for item in sample.items if item.stratum == "certain"]
    assert abs(sum(item.class_name == "bicycle" for item in certain) - len(certain) / 3) <= 1
    assert abs(sum(item.order < 1200 for item in certain) - len(certain) / 2) <= 2
    assert {item.stratum_size for item in certain} == {270}
    assert len({item.identity for item in sample.items}) == 120


def test_every_item_of_a_stratum_is_drawn_equally_often() -> None:
    items = population(25, 40)
    draws = Counter(
        item.identity
        for seed in range(1500)
        for item in draw_sample("gate", items, 20, seed).items
        if item.stratum == "certain"
    )
    assert len(draws) == 22
    assert max(draws.values()) < 1.3 * min(draws.values())


def test_the_same_seed_draws_the_same_sample_and_a_second_one_is_of_the_rest() -> None:
    items = population()
    first = draw_sample("gate", items, 50, seed=1)
    assert draw_sample("gate", items, 50, seed=1) == first
    assert draw_sample("gate", items, 50, seed=2).audit_id != first.audit_id
    answered = frozenset(item.identity for item in first.items)
    second = draw_sample("gate", items, 50, seed=1, looked_at=answered)
    assert not answered & {item.identity for item in second.items}
    assert (second.counts_id, second.audit_id != first.audit_id) == (first.counts_id, True)
    everything = frozenset(item.identity for item in items)
    with pytest.raises(PipelineError, match="nothing left to look at"):
        draw_sample("gate", items, 50, seed=1, looked_at=everything)


def test_few_events_leave_more_for_the_stretches() -> None:
    sample = draw_sample("gate", population(3), 30, seed=0)
    assert Counter(item.kind for item in sample.items) == {"event": 3, "stretch": 27}
    assert Counter(item.kind for item in draw_sample("gate", population(0), 30, seed=0).items) == {"stretch": 30}
    assert len(draw_sample("gate", population(3, 4), 30, seed=0).items) == 7


def test_a_sample_that_is_too_small_is_an_error() -> None:
    items = [*population(), *(replace(item, count_name="zone yard") for item in population())]
    with pytest.raises(PipelineError, match=r"--sample 19 is too small: .* has 2 counts .*: --sample 20\."):
        draw_sample("gate", items, 19, seed=0)


def test_allocation_gives_each_stratum_one_and_none_more_than_it_has() -> None:
    assert allocate(10, {"with counted": 1, "with boxes": 0, "empty": 500}) == {
        "with counted": 1,
        "with boxes": 0,
        "empty": 9,
    }
    assert allocate(99, {"doubtful": 2, "certain": 3}) == {"doubtful": 2, "certain": 3}


def test_the_hash_of_counts_changes_with_each_event() -> None:
    items = population()
    assert hash_counts(items) == hash_counts(items[::-1])
    assert hash_counts([replace(items[0], start_s=1.0), *items[1:]]) != hash_counts(items)
