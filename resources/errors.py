"""Expected errors, each with one sentence for the user.

Any other exception is a bug and keeps its traceback.
"""


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
