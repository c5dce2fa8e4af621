"""Tables of operation: notifications."""

from resources.schema.columns import CAMERA, INT, TEXT, UTC, Column, Table

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
