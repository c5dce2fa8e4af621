"""Settings of stages of one's own."""

from pydantic import Field

from resources.config.section import FolderPath, Section

CALLABLE_PATTERN = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
"""The import path of a callable: package.module:function."""


class IsolatedCodeSettings(Section):
    """Limits of the child process in which code of one's own runs."""

    max_memory_mb: int = Field(
        4000, ge=200, description="A batch for which the process needs more memory fails, and its recording with it."
    )
    batch_timeout_s: float = Field(
        60.0, ge=0.1, description="A batch that takes longer fails, and its recording with it."
    )


class OwnStageSettings(IsolatedCodeSettings):
    """A stage of one's own: an asset with a table, declared and computed by a Python file."""

    file: FolderPath = Field(description="The Python file with the decorated function.")
