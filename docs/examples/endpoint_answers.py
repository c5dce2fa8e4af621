"""A call to an HTTP endpoint: crops in batches, with a time-out, retries, a rate limit and a budget.

A failure is a row with its reason, so that one can see and count failures, and the other crops have their answers. The
endpoint receives {"images": [JPEG as base64, …]} and returns {"answers": [{"text": …, "confidence": …}, …]}.
"""

import base64
import json
import os
import time
import urllib.error
import urllib.request

import cv2
import numpy as np

from resources.own_stages import Batch, Column, stage

URL = os.environ.get("ENDPOINT_URL", "http://127.0.0.1:8080/read")  # with its secrets, if any, in the environment
TIMEOUT_S = float(os.environ.get("ENDPOINT_TIMEOUT_S", "10"))
ATTEMPTS, FIRST_PAUSE_S = 3, 0.2
MAX_REQUESTS_PER_S = 20.0
MAX_REQUESTS = int(os.environ.get("ENDPOINT_MAX_REQUESTS", "1000"))  # of a recording, retries included
RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)


class BudgetError(Exception):
    """The recording has used up its requests."""


@stage(
    inputs=["crops"],
    key=["track_id", "rank"],
    columns=[
        "track_id",
        Column("rank", "int", "Rank of the crop in the table crops", minimum=1),
        Column("answer", "text", "Text of the answer; NULL if there is none"),
        Column("answer_confidence", "float", "Confidence of the answer", "0 to 1", minimum=0, maximum=1),
        Column("error", "text", "Why there is no answer; NULL if there is one"),
        Column("request_count", "int", "Number of requests for the batch of the crop", minimum=0),
    ],
    batch_size=8,
)
def endpoint_answers(batch: Batch) -> list[dict[str, object]]:
    """One row per crop with the answer of the endpoint, or why there is none."""
    crops = [crop for crop in batch.crops if crop.image is not None]
    before = batch.state.get("request_count", 0)
    answers: list[dict[str, object]] = []
    error = None
    try:
        answers = request_answers([crop.image for crop in crops if crop.image is not None], batch.state)
        if len(answers) != len(crops):
            error = f"the endpoint returned {len(answers)} answers for {len(crops)} crops"
    except (OSError, ValueError, KeyError, BudgetError) as failure:
        error = str(failure) or type(failure).__name__
    count = batch.state.get("request_count", 0) - before
    rows, next_answers = [], iter(answers)
    for crop in batch.crops:
        answer = {} if error or crop.image is None else next(next_answers)
        reason = "the picture was deleted by retention" if crop.image is None else error
        rows.append(
            {
                "track_id": crop.row["track_id"],
                "rank": crop.row["rank"],
                "answer": answer.get("text"),
                "answer_confidence": answer.get("confidence"),
                "error": reason,
                "request_count": count,
            }
        )
    return rows


def request_answers(images: list[np.ndarray], state: dict[str, object]) -> list[dict[str, object]]:
    """Send images in one request, and repeat it after a failure that may pass."""
    if not images:
        return []
    encoded = [base64.b64encode(cv2.imencode(".jpg", image)[1].tobytes()).decode() for image in images]
    body = json.dumps({"images": encoded}).encode()
    for attempt in range(1, ATTEMPTS + 1):
        wait_for_turn(state)
        request = urllib.request.Request(URL, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return list(json.load(response)["answers"])
        except urllib.error.HTTPError as error:
            if error.code not in RETRIED_STATUSES or attempt == ATTEMPTS:
                raise
            pause_s = float(error.headers.get("Retry-After") or 0)
        except OSError:  # no connection, or no answer in time
            if attempt == ATTEMPTS:
                raise
            pause_s = 0.0
        time.sleep(max(pause_s, FIRST_PAUSE_S * 2 ** (attempt - 1)))
    raise AssertionError("the last attempt returns or raises")


def wait_for_turn(state: dict[str, object]) -> None:
    """Count a request of the recording, and wait until the rate limit allows it."""
    count = int(str(state.get("request_count", 0)))
    if count >= MAX_REQUESTS:
        raise BudgetError(f"the budget of {MAX_REQUESTS} requests is used up")
    next_s = float(str(state.get("next_s", 0.0)))
    time.sleep(max(0.0, next_s - time.monotonic()))
    state["request_count"], state["next_s"] = count + 1, time.monotonic() + 1 / MAX_REQUESTS_PER_S
