"""Callbacks: one POST to an allowed address once a submitted recording is done or failed."""

import logging
import threading
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from resources.config.operations_config import check_web_address
from resources.errors import PipelineError
from resources.notifications.delivery import post_json
from serve.app_state import AppState
from serve.problems import ProblemError
from serve.recording_report import RecordingReport, read_report
from serve.submissions import MAX_ATTEMPTS, Submission

logger = logging.getLogger(__name__)
_CHECK_INTERVAL_S = 2.0
RETRY_DELAYS_S = (5.0, 30.0, 30.0)
"""Time from each attempt to the next."""
_MAX_URL_LENGTH = 2000


def check_callback_url(url: str, callback_hosts: Iterable[str]) -> str:
    """Check that a callback leads to an allowed host.

    Returns:
        The address.

    Raises:
        ProblemError: The text is no web address, or its host is not in serve.callback_hosts.
    """
    try:
        parts = urlsplit(check_web_address(url[: _MAX_URL_LENGTH + 1]))
    except ValueError as error:
        raise ProblemError(422, f"callback_url: {error}.") from error
    if len(url) > _MAX_URL_LENGTH or parts.username is not None or parts.password is not None:
        raise ProblemError(422, f"callback_url: use {_MAX_URL_LENGTH} characters at most, and no user or password.")
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = parts.port or (443 if parts.scheme == "https" else 80)
    if not {host, f"{host}:{port}"} & {name.lower() for name in callback_hosts}:
        raise ProblemError(
            422, f"callback_url: the host {host}:{port} is not in serve.callback_hosts: add it to the settings."
        )
    return url


class CallbackSender:
    """A thread that sends the callbacks of recordings as they are done or failed.

    Args:
        state: The state of the server.
        retry_delays_s: Time from each attempt to the next.
    """

    def __init__(self, state: AppState, retry_delays_s: tuple[float, ...] = RETRY_DELAYS_S) -> None:
        self._state, self._retry_delays_s = state, retry_delays_s
        self._is_stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="callbacks", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a call in progress is waited for."""
        self._is_stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_stopped.wait(_CHECK_INTERVAL_S):
            try:
                self.send_due()
            except PipelineError as error:
                logger.warning("Callbacks wait: %s", error)
            except Exception:  # such as a database that is away for a moment; the submissions stay pending
                logger.exception("Callbacks wait.")

    def send_due(self) -> None:
        """Send the callbacks that are due."""
        for submission in self._state.submissions.due_callbacks():
            report = read_report(self._state, submission.recording_id)
            if report is not None and report.is_final and not self._is_stopped.is_set():
                self._send(submission, report)

    def _send(self, submission: Submission, report: RecordingReport) -> None:
        assert submission.callback_url is not None
        submissions = self._state.submissions
        delay_s = self._retry_delays_s[min(submission.attempt_count, len(self._retry_delays_s) - 1)]
        if submission.attempt_count >= MAX_ATTEMPTS:
            submissions.end_attempt(submission.id, "The server was killed during the last attempt.", is_final=True)
            return
        if not submissions.start_attempt(submission, time.time() + delay_s):
            return
        is_last = submission.attempt_count + 1 >= MAX_ATTEMPTS
        try:
            # Checked again: the settings may have changed since.
            check_callback_url(submission.callback_url, self._state.settings.serve.callback_hosts)
        except ProblemError as error:
            submissions.end_attempt(submission.id, str(error.detail), is_final=True)
            return
        delivery = post_json(submission.callback_url, callback_body(report))
        error_text = None if delivery.state == "sent" else delivery.error or delivery.state
        submissions.end_attempt(submission.id, error_text, is_final=is_last)


def callback_body(report: RecordingReport) -> dict[str, Any]:
    """What a callback sends."""
    return {
        "recording_id": report.recording_id,
        "state": report.state,
        "status": report.status,
        "error": report.error,
        "source_path": report.source_path,
        "status_path": f"/api/recordings/{report.recording_id}",
    }
