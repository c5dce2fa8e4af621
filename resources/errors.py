"""Expected errors, each with one sentence for the user, and the summary of any exception in one line.

An exception of any other class is a bug and keeps its traceback.
"""

_MAX_SUMMARY_LENGTH = 300


class RecordingError(Exception):
    """One recording cannot be processed; the other recordings of the run are processed."""


class RejectedRecordingError(RecordingError):
    """The file can never be processed (no video stream, not a video, no decodable frame): the stage is not retried."""


class PipelineError(Exception):
    """No recording can be processed until a person acts (settings, weights, disk): the whole run stops."""


class RunFencedError(Exception):
    """A run that is no longer active tried to write: another run may have superseded it.

    The message reads "The run 3f2a is no longer active; its writes are fenced off."
    """


def summarize_exception(error: BaseException) -> str:
    """Summarize an exception in one line: its text, shortened, or the name of its class if it has no text."""
    return " ".join(str(error).split())[:_MAX_SUMMARY_LENGTH] or type(error).__name__
