"""The files of a table that may have rows of some recordings."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc


def select_files(add_actions: pa.Table, recording_ids: Sequence[str]) -> pa.Table:
    """Select the files that may have rows of some recordings.

    deltalake's own dataset is not used: to read one recording, it builds a filter for every file of the table.

    Args:
        add_actions: The files of a table according to its log, with flat statistics.
        recording_ids: The recordings.
    """
    min_id, max_id = add_actions["min.recording_id"], add_actions["max.recording_id"]
    may_match = pc.is_null(min_id)  # files without statistics
    for recording_id in recording_ids:
        is_in_range = pc.and_(pc.less_equal(min_id, recording_id), pc.greater_equal(max_id, recording_id))
        may_match = pc.or_(may_match, pc.fill_null(is_in_range, True))
    return add_actions.filter(may_match)
