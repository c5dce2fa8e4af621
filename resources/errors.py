"""The ways in which work fails, each carrying one sentence for a person.

Everything else that is raised is a defect of this program and keeps its traceback.
"""


class RecordingError(Exception):
    """One recording cannot be processed; the others go on."""


class RejectedRecordingError(RecordingError):
    """The file can never be processed as it is (no video, not a video, nothing decodable): never retried."""


class PipelineError(Exception):
    """Nothing can be processed until a person acts (settings, weights, disk): the whole run stops."""


class GivenUpError(Exception):
    """The run that is writing was ended by somebody else meanwhile: it must not write any more."""
