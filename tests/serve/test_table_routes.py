"""Rows of the published tables over HTTP: filters, pages, formats, and SQL."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from resources.config.settings import Settings
from resources.storage.results_database import publish
from serve.sql_runner import SqlRunner
from tests.builders.api_client import ApiClient, publish_two_recordings, store_tracks


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> ApiClient:
    client = ApiClient(tmp_path_factory.mktemp("tables"))
    publish_two_recordings(client.data_folder)
    return client


def track_ids(client: ApiClient, *where: str, **query: str) -> list[int]:
    response = client.get("/api/recordings/a/tables/tracks", params={**query, "where": list(where)})
    assert response.status_code == 200, response.text
    return [row["track_id"] for row in response.json()["rows"]]


def test_tables_and_columns_are_listed_with_their_meaning(client: ApiClient) -> None:
    tables = {row["table_name"]: row for row in client.get("/api/tables").json()["tables"]}
    assert tables["recordings"]["key"] == "recording_id"
    columns = client.get("/api/tables/tracks/columns").json()["columns"]
    assert {"name": "class_name", "type": "VARCHAR"}.items() <= next(
        column for column in columns if column["name"] == "class_name"
    ).items()


def test_recordings_are_listed_by_camera_and_status(client: ApiClient) -> None:
    rows = client.get("/api/recordings", params={"camera": "gate"}).json()["recordings"]
    assert sorted(row["recording_id"] for row in rows) == ["a", "b"]
    assert client.get("/api/recordings", params={"camera": "x"}).json()["recordings"] == []
    assert client.get("/api/recordings", params={"status": "failed"}).json()["recordings"] == []


def test_conditions_and_columns_select(client: ApiClient) -> None:
    assert track_ids(client) == [1, 2, 3]
    assert track_ids(client, "class_name=car") == [1, 3]
    assert track_ids(client, "class_name=car", "first_frame_index>10") == [3]
    assert track_ids(client, "class_name!=car", "mean_confidence<=0.2") == [2]
    assert track_ids(client, "camera!=NULL", "class_name=x' OR 1=1 --") == []
    rows = client.get("/api/tables/tracks", params={"columns": "track_id, class_name", "limit": 1}).json()["rows"]
    assert rows == [{"track_id": 1, "class_name": "car"}]
    assert client.get("/api/recordings/b/tables/tracks").json() == {"table": "tracks", "rows": [], "next": None}


def test_pages_follow_each_other(client: ApiClient) -> None:
    first = client.get("/api/recordings/a/tables/tracks", params={"limit": 2}).json()
    second = client.get(first["next"]).json()
    assert [[row["track_id"] for row in page["rows"]] for page in (first, second)] == [[1, 2], [3]]
    assert second["next"] is None


def test_every_format_has_the_same_rows(client: ApiClient) -> None:
    query = {"columns": "track_id,class_name", "where": "track_id>=2"}
    expected = [{"track_id": 2, "class_name": "person"}, {"track_id": 3, "class_name": "car"}]
    contents = {
        name: client.get("/api/recordings/a/tables/tracks", params=query | {"format": name})
        for name in ("csv", "parquet", "arrow")
    }
    assert contents["csv"].text == "track_id,class_name\n2,person\n3,car\n"
    assert contents["csv"].headers["content-disposition"] == 'attachment; filename="tracks.csv"'
    assert pq.read_table(io.BytesIO(contents["parquet"].content)).to_pylist() == expected
    assert pa.ipc.open_stream(contents["arrow"].content).read_all().to_pylist() == expected
    crop = client.get("/api/recordings/a/tables/crops", params={"columns": "jpeg"}).json()["rows"]
    assert crop == [{"jpeg": "<5 bytes>"}]


@pytest.mark.parametrize(
    ("path", "status", "sentence"),
    [
        ("/api/tables/nope", 404, "Table 'nope' does not exist: GET /api/tables lists all."),
        ("/api/tables/tracks'", 404, "does not exist"),
        ("/api/recordings/nope/tables/tracks", 404, "Recording 'nope' has no results"),
        ("/api/recordings/a/tables/published_tables", 404, "has no rows of recordings"),
        ("/api/tables/tracks?columns=nope", 422, "Table tracks has no column 'nope'"),
        ("/api/tables/tracks?where=nope=1", 422, "Table tracks has no column 'nope'"),
        ("/api/tables/tracks?where=track_id", 422, "Condition 'track_id' is malformed"),
        ("/api/tables/tracks?where=track_id=abc", 422, "query where: Could not convert string 'abc'"),
        ("/api/tables/tracks?limit=0", 422, "query limit: Input should be greater than or equal to 1 (value: '0')."),
        ("/api/tables/tracks?limit=10001", 422, "query limit: JSON has at most 10,000 rows"),
        ("/api/tables/tracks?offset=-1", 422, "query offset: Input should be greater"),
        ("/api/tables/tracks?format=xlsx", 422, "query format: Input should be 'json', 'csv', 'parquet' or 'arrow'"),
    ],
)
def test_a_wrong_query_is_refused(client: ApiClient, path: str, status: int, sentence: str) -> None:
    response = client.get(path)
    assert response.status_code == status and sentence in response.json()["detail"], response.text


def test_the_rows_follow_each_publication(tmp_path: Path) -> None:
    client = ApiClient(tmp_path)
    missing = client.get("/api/tables")
    assert missing.status_code == 503 and "has no results: process some recordings first" in missing.json()["detail"]
    store = publish_two_recordings(client.data_folder)
    assert track_ids(client) == [1, 2, 3]
    store_tracks(store, (9, "car"))
    publish(store, Settings())
    assert track_ids(client) == [9]


def run_sql(client: ApiClient, query: str, **parameters: str) -> tuple[int, str]:
    response = client.post("/api/sql", json={"query": query}, params=parameters)
    return response.status_code, response.text if response.status_code == 200 else response.json()["detail"]


def test_one_select_runs_and_its_rows_are_limited(client: ApiClient) -> None:
    query = "SELECT class_name, count(*) AS objects FROM tracks GROUP BY ALL ORDER BY ALL"
    assert run_sql(client, query, format="csv") == (200, "class_name,objects\ncar,2\nperson,1\n")
    response = client.post("/api/sql", json={"query": "SELECT * FROM range(20000)"}).json()
    assert (len(response["rows"]), response["truncated"]) == (10_000, True)


@pytest.mark.parametrize(
    ("value", "row_format"),
    [("TIMESTAMP 'infinity'", "json"), ("TIMESTAMP 'infinity'", "csv"), ("INTERVAL 1 MONTH", "parquet")],
)
def test_a_value_that_a_format_cannot_have_is_refused(client: ApiClient, value: str, row_format: str) -> None:
    status, sentence = run_sql(client, f"SELECT {value} AS value", format=row_format)
    assert (status, sentence.partition(":")[0]) == (422, f"The query has a value that {row_format} cannot have")


@pytest.mark.slow
def test_any_other_sql_is_refused(client: ApiClient, tmp_path: Path) -> None:
    secret = client.data_folder.parent / "secret.csv"
    secret.write_text("secret\n1\n")
    for query, sentence in (
        ("DROP TABLE tracks", "The statement DROP is refused: send exactly one SELECT."),
        ("SELECT 1; SELECT 2", "The query has 2 statements: send exactly one SELECT."),
        (f"COPY tracks TO '{tmp_path}/x'", "The statement COPY is refused"),
        ("SET memory_limit = '90GB'", "The statement SET is refused"),
        (f"SELECT * FROM read_text('{client.data_folder}/tables/../../secret.csv')", "Cannot access file"),
        ("SELECT list(range) FROM range(300000000)", "Out of Memory"),
    ):
        status, text = run_sql(client, query)
        assert status == 422 and sentence in text, (query, text)
    assert list(tmp_path.iterdir()) == []
    assert client.post("/api/sql", json={"query": ""}).status_code == 422
    assert client.post("/api/sql", json={"q": "SELECT 1"}).status_code == 422


def test_a_query_that_never_ends_is_killed(client: ApiClient) -> None:
    runner = SqlRunner(client.data_folder, time_limit_s=2)
    client.state.sql, runner_before = runner, client.state.sql
    query = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t"
    status, sentence = run_sql(client, query)
    client.state.sql = runner_before
    assert (status, sentence) == (422, "The query takes longer than 2 s and was ended: select fewer rows.")
