"""The server as its users reach it: guard, errors, media and results."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from resources.config.settings import Settings
from serve.access_control import Access
from serve.app import build_app

ADDRESS = "http://127.0.0.1:3100"
TOKEN = "correct horse battery staple"


def build_client(folder: Path, access: Access | None = None) -> TestClient:
    settings = Settings(watched_folder=folder / "recordings", data_folder=folder / "data")
    return TestClient(build_app(settings, access), base_url=ADDRESS)


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    return build_client(tmp_path)


def test_health_and_pages_answer(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok", "has_results": False}
    page = client.get("/")
    assert page.status_code == 200 and "default-src 'self'" in page.headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/nowhere", "/api/nowhere", "/media/%2e%2e%2fx/video", "/static/..%2fapp.py"])
def test_an_unknown_path_is_a_problem_document(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["status"] == 404 and response.json()["detail"].endswith(".")
