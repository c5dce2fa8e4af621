"""Sentences about what the processing of a folder waits for, with the holder and the elapsed time."""

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cli.process_folder import FolderProgress
    from cli.stage_waits import Wait


_MIN_WAIT_S = 2.0


class WaitSentences:
    """Finds what must be printed about waits: each once when it begins or changes, and once when it has ended.

    Args:
        repeat_interval_s: Interval in which a wait is printed again, with its elapsed time.
    """

    def __init__(self, repeat_interval_s: float) -> None:
        self._repeat_interval_s = repeat_interval_s
        self._printed: dict[tuple[str, str], tuple[Wait, float]] = {}

    def news(self, progress: "FolderProgress") -> list[str]:
        """List the sentences that are due."""
        now_s, sentences = time.time(), list[str]()
        for key, (wait, _) in list(self._printed.items()):
            if key not in progress.waits:
                sentences.append(f"{_subject(key)} went on after {_elapsed(wait)}.")
                del self._printed[key]
        for key, wait in progress.waits.items():
            if now_s - wait.since_s < _MIN_WAIT_S:
                continue
            printed, printed_s = self._printed.get(key, (None, 0.0))
            if printed is None or printed.text != wait.text or now_s - printed_s > self._repeat_interval_s:
                sentences.append(f"{_subject(key)} waits {_elapsed(wait)} for {wait.text}.")
                self._printed[key] = wait, now_s
        return sentences


def short_waits(progress: "FolderProgress") -> dict[str, str]:
    """Describe the waits by recording in a few words, without the holder."""
    return {key[0]: f"waits {_elapsed(wait)} for {wait.text.split(',')[0]}" for key, wait in progress.waits.items()}


def _subject(key: tuple[str, str]) -> str:
    recording_id, stage = key
    return f"{recording_id}: {stage}" if recording_id else stage


def _elapsed(wait: "Wait") -> str:
    return f"{time.time() - wait.since_s:.0f} s"
