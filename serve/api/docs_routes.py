"""The page that shows the OpenAPI document: GET /docs, with Swagger UI from this server."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

docs_router = APIRouter(include_in_schema=False)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>API of cv-assets</title><link rel="icon" href="/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/vendor/swagger-ui/swagger-ui.css"></head>
<body><p style="margin: 1rem auto 0; max-width: 1460px; padding: 0 20px; font: 15px system-ui">
<a href="/">‹ Recordings</a></p><div id="api"></div>
<script src="/static/vendor/swagger-ui/swagger-ui-bundle.js"></script>
<script src="/static/api_docs.js"></script></body></html>
"""


@docs_router.get("/docs", response_class=HTMLResponse)
def show_docs() -> str:
    """Show the API in a browser."""
    return _PAGE
