"""The web process of `cv-assets dev`: Dagster's own web application behind the request guard.

`dagster dev` would serve the same application on an open port, to every page in a browser on this machine.
"""

import time
from pathlib import Path

import click

from resources.dagster_instance.private_api import open_workspace
from resources.dagster_instance.server_addresses import DAGSTER_UI, PAGES, announced_address, read_address
from serve.request_guard import HOST, RequestGuard

_POLL_S = 0.1
_CLOSE_S = 1  # open pages keep WebSockets, which would otherwise hold up the end of the process
# As in the command dagster-webserver.
_STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_S, _POOL_MAX_OVERFLOW = 15_000, 3600, 20
_LIVE_DATA_INTERVAL_MS = 2000


@click.command()
@click.argument("port", type=int)
@click.argument("workspace_file", type=click.Path(path_type=Path))
def serve_ui(port: int, workspace_file: Path) -> None:
    """Serve the UI on 127.0.0.1 as soon as the workspace file exists, which names the code server."""
    import uvicorn
    from dagster import DagsterInstance
    from dagster_webserver.app import create_app_from_workspace_process_context

    while not workspace_file.exists():  # the imports above take as long as the code server needs to start
        time.sleep(_POLL_S)
    with DagsterInstance.get() as instance:
        instance.optimize_for_webserver(_STATEMENT_TIMEOUT_MS, _POOL_RECYCLE_S, _POOL_MAX_OVERFLOW)
        with open_workspace(instance, workspace_file) as workspace:
            app = create_app_from_workspace_process_context(workspace, live_data_poll_rate=_LIVE_DATA_INTERVAL_MS)
            data_folder = Path(instance.root_directory).parent
            with announced_address(data_folder, DAGSTER_UI, f"http://{HOST}:{port}"):
                uvicorn.run(
                    RequestGuard(app, port, lambda: read_address(data_folder, PAGES)),
                    host=HOST,
                    port=port,
                    log_level="warning",
                    timeout_graceful_shutdown=_CLOSE_S,
                )


if __name__ == "__main__":
    serve_ui()
