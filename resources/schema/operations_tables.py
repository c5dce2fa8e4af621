"""Tables of operation: the attempts of stages, notifications, and recordings that must not be deleted."""

import pyarrow as pa

from resources.schema.columns import (
    BIG,
    CAMERA,
    FLOAT,
    INT,
    RECORDING_CAMERA,
    RECORDING_ID,
    STATUS_MEANING,
    STATUSES,
    TEXT,
    UTC,
    Column,
    Table,
)

NOTIFICATIONS = Table(
    "notifications",
    "One row per event and channel that receives it.",
    ("event_id", "channel"),
    (
        Column("event_id", TEXT, "The event"),
        Column("channel", TEXT, "Name of the channel in the settings; empty if no channel receives such events"),
        Column(
            "kind",
            TEXT,
            "What happened; start: notifications began; hold: work stopped until a person acts; recovery: a failed "
            "recording succeeded, or a hold or backlog ended; no_data: no file arrived from a camera; data_resumed: "
            "files arrive from it again",
            allowed=("start", "success", "failure", "hold", "backlog", "recovery", "no_data", "data_resumed"),
        ),
        Column("subject", TEXT, "Recording, file or camera of the event; empty for events of the whole pipeline"),
        CAMERA,
        Column("message", TEXT, "What happened, in one sentence"),
        Column("reported_at_utc", UTC, "When the event was detected", "UTC"),
        Column(
            "state",
            TEXT,
            "baseline: older than the first check, never sent; no_channel: no channel receives such events; pending: "
            "will be sent; sending; sent; unknown: may have arrived, is not sent again; failed: every attempt failed",
            allowed=("baseline", "no_channel", "pending", "sending", "sent", "unknown", "failed"),
        ),
        Column("message_id", TEXT, "The message that contained it last, together with others", nullable=True),
        Column("attempt_count", INT, "Number of delivery attempts", minimum=0),
        Column("last_attempt_at_utc", UTC, "Time of the last attempt", "UTC", nullable=True),
        Column("next_attempt_at_utc", UTC, "Earliest time of the next attempt", "UTC", nullable=True),
        Column("error", TEXT, "Why the delivery failed or may have failed", nullable=True),
    ),
    per_recording=False,
    is_small=True,
)

STAGE_RUNS = Table(
    "stage_runs",
    "One row per recording, stage and attempt; the newest row of a recording and stage is its state.",
    ("recording_id", "stage", "run_id"),
    (
        RECORDING_ID,
        RECORDING_CAMERA,
        Column("stage", TEXT, "The stage, which has the name of its step in Dagster"),
        Column(
            "attempt", INT, "Number of the attempt, from 1; an interrupted one has the number of the next", minimum=1
        ),
        Column("status", TEXT, STATUS_MEANING, allowed=STATUSES),
        Column("error", TEXT, "Reason of the status in one sentence; NULL if ok", nullable=True),
        Column(
            "data_version",
            TEXT,
            "Version of the stored results, from code_version and input_versions; NULL if the attempt stored none",
            nullable=True,
        ),
        Column("code_version", TEXT, "Version of the stage's logic and settings", nullable=True),
        Column(
            "input_versions",
            TEXT,
            "Data version of each input by the name of its asset, as JSON; NULL if the attempt stored no results",
            nullable=True,
        ),
        Column("run_id", TEXT, "Run in Dagster; empty if the run planner found the state without a run"),
        Column("started_at_utc", UTC, "Start of the attempt; NULL if unknown", "UTC", nullable=True),
        Column("finished_at_utc", UTC, "End of the attempt", "UTC"),
        Column("elapsed_s", FLOAT, "Elapsed time of the attempt; NULL if unknown", "s", nullable=True, minimum=0),
        Column("worker", TEXT, "Worker, or machine and process, that ran the attempt; NULL if unknown", nullable=True),
        Column(
            "worker_run",
            INT,
            "How many runs the worker's process had executed with this one; NULL if unknown",
            nullable=True,
            minimum=1,
        ),
        Column(
            "model_load_count",
            INT,
            "How often the worker's process had loaded a model with this attempt; NULL for a stage without a model",
            nullable=True,
            minimum=0,
        ),
        Column(
            "requested_by",
            TEXT,
            "Who requested the run: the name of a sensor or schedule, backfill, person, or repair",
        ),
        Column(
            "commits",
            pa.list_(
                pa.struct(
                    [
                        pa.field("table_name", TEXT),
                        pa.field("recording_id", TEXT),
                        pa.field("delta_version", BIG),
                        pa.field("row_count", BIG),
                    ]
                )
            ),
            "Commits of the attempt: table, recording, version of the Delta table, number of rows of the recording; "
            "NULL if the attempt was recorded by the run planner or by an older version",
            nullable=True,
        ),
    ),
)

KEPT_RECORDINGS = Table(
    "kept_recordings",
    "One row per recording that retention and cv-assets forget must not delete.",
    ("recording_id",),
    (
        RECORDING_ID,
        Column("reason", TEXT, "Why the recording is kept; NULL if no reason was given", nullable=True),
        Column("kept_since_utc", UTC, "When cv-assets keep was run", "UTC"),
    ),
    is_small=True,
)
