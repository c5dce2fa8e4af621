"""Login of people: GET and POST /login, POST /logout. Programs send the token itself."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from serve.access_control import SESSION_COOKIE, Access

login_router = APIRouter(include_in_schema=False)
_WRONG_TOKEN_DELAY_S = 1.0
_SESSION_S = 7 * 86_400
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in · cv-assets</title><link rel="icon" href="/static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/static/pages.css"><script src="/static/theme.js"></script></head>
<body><main class="login card"><h1>Log in</h1><form method="post" action="/login">
<label class="field"><span>Token (serve.token of the settings)</span>
<input name="token" type="password" autocomplete="current-password" required autofocus></label>
<button class="primary">Log in</button></form><p role="alert" class="problem">{message}</p></main></body></html>
"""


@login_router.get("/login", response_class=HTMLResponse)
def show_login() -> str:
    """Show the form for the token."""
    return _PAGE.format(message="")


@login_router.post("/login")
async def log_in(request: Request, token: Annotated[str, Form(max_length=1000)] = "") -> Response:
    """Set the cookie of a person who knows the token."""
    access: Access = request.app.state.access
    if access.session is None:
        return RedirectResponse("/", 303)
    if not access.is_token(token):
        await asyncio.sleep(_WRONG_TOKEN_DELAY_S)
        return HTMLResponse(_PAGE.format(message="The token is wrong."), 401)
    response = RedirectResponse("/", 303)
    response.set_cookie(
        SESSION_COOKIE,
        access.session,
        max_age=_SESSION_S,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@login_router.post("/logout")
def log_out() -> Response:
    """Delete the cookie."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(SESSION_COOKIE)
    return response
