"""Requests generated from the OpenAPI document: none gets a status of 500 or more for a fault of the server."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.builders.api_client import ADDRESS, ApiClient, publish_two_recordings

_KNOWN_STATUSES = (503, 507)  # the pipeline does not run; the disk is full
_EXAMPLES = 4
_HOST = {"host": ADDRESS.removeprefix("http://")}
_SLOW_PATH = "/api/sql"  # each query is a process


@pytest.mark.long
def test_no_generated_request_is_a_fault_of_the_server(tmp_path: Path) -> None:
    client = ApiClient(tmp_path)
    publish_two_recordings(client.data_folder)
    document = schemathesis.openapi.from_asgi("/openapi.json", client.app, headers=_HOST)
    results: list[Any] = list(document.get_all_operations())
    operations = [result.ok() for result in results]  # an operation that is no valid OpenAPI raises here
    assert len(operations) >= 13
    statuses: set[int] = set()
    for operation in operations:

        @given(operation.as_strategy())
        @settings(max_examples=_EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        def send(case: Any) -> None:
            response = case.call(headers=_HOST)
            is_known = response.status_code < 500 or response.status_code in _KNOWN_STATUSES
            assert is_known, (case.as_curl_command(), response.text)
            statuses.add(response.status_code)

        if operation.path != _SLOW_PATH:
            send()
    assert {200, 404} <= statuses
