"""The sentences about waits that the terminal shows."""

import math
import time

import pytest

from cli.process_folder import FolderProgress
from cli.stage_waits import Wait
from cli.wait_sentences import WaitSentences, short_waits

HELD = "cpu, which is held by process 7 (cv-assets process /a) for the data folder /a since 2026-01-01T10:00:00+00:00"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the test, in seconds since 1970, as its only element."""
    clock = [1000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    return clock


def test_a_wait_is_printed_when_it_begins_changes_and_ends_and_again_after_the_interval(clock: list[float]) -> None:
    sentences, progress = WaitSentences(30.0), FolderProgress()
    progress.waits["gate-1", "detections"] = Wait(HELD, 999.0)
    assert sentences.news(progress) == []  # below two seconds
    clock[0] = 1003.0
    assert sentences.news(progress) == [f"gate-1: detections waits 4 s for {HELD}."]
    assert short_waits(progress) == {"gate-1": "waits 4 s for cpu"}
    clock[0] = 1020.0
    assert sentences.news(progress) == []
    clock[0] = 1034.0
    assert sentences.news(progress) == [f"gate-1: detections waits 35 s for {HELD}."]
    progress.waits["gate-1", "detections"] = Wait("street to be compiled", 999.0)
    assert sentences.news(progress) == ["gate-1: detections waits 35 s for street to be compiled."]
    progress.waits.clear()
    clock[0] = 1040.0
    assert sentences.news(progress) == ["gate-1: detections went on after 41 s."]
    assert sentences.news(progress) == []


def test_with_an_infinite_interval_a_wait_is_printed_once(clock: list[float]) -> None:
    sentences, progress = WaitSentences(math.inf), FolderProgress()
    progress.waits["", "The pipeline"] = Wait("the daemon to start", 990.0)
    assert sentences.news(progress) == ["The pipeline waits 10 s for the daemon to start."]
    clock[0] += 9999
    assert sentences.news(progress) == []
