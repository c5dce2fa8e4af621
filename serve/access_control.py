"""Who may use the pages and the API: the Host and Origin of each request are checked, and its token if there is one.

A browser sends the name in its address bar as Host and the address of the page that sends a request as Origin, so that
neither a page of another site nor a name that points at this machine gets past. On every address but loopback a token
is needed: programs send it as `Authorization: Bearer …`, people enter it at /login, which sets a cookie.
"""

import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

import psutil

from resources.config.serve_config import MIN_TOKEN_LENGTH
from resources.errors import PipelineError
from serve.request_guard import HOST_NAMES, header_values, quote_values

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

SESSION_COOKIE = "cv_assets_session"
_OPEN_PATHS = ("/health", "/login")
_SECURITY_HEADERS = (
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    # No page loads anything from another host; Swagger UI and charts set styles inline.
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
        b"frame-ancestors 'self'; base-uri 'self'; form-action 'self'; object-src 'none'",
    ),
)
_HTTP_PORT = 80  # which browsers leave out
_SESSION_PURPOSE = b"cv-assets session"


@dataclass(frozen=True)
class Access:
    """Who may use a server.

    Attributes:
        hosts: Allowed values of Host, in lower case.
        token: The token that each request needs; None if none is needed.
    """

    hosts: frozenset[str]
    token: str | None = None

    @classmethod
    def to_address(cls, host: str, port: int, token: str | None, host_names: Iterable[str] = ()) -> "Access":
        """Determine who may use a server that listens at an address.

        Args:
            host: Address or name at which the server listens.
            port: Its port.
            token: The token; None without one.
            host_names: Further names of the server in browsers, with or without port.

        Raises:
            PipelineError: The address is not loopback and there is no token, or the token is short.
        """
        if token is not None and len(token) < MIN_TOKEN_LENGTH:
            raise PipelineError(f"serve.token: the token is too short: use at least {MIN_TOKEN_LENGTH} characters.")
        if not is_loopback(host) and token is None:
            raise PipelineError(
                f"The address {host} lets other machines in, which need a token: set serve.token in the settings, or "
                "serve on 127.0.0.1."
            )
        names = {*HOST_NAMES, _url_name(host)}
        if not is_loopback(host):
            names |= {socket.gethostname(), socket.getfqdn(), *map(_url_name, _own_addresses())}
        suffixes = (f":{port}", "") if port == _HTTP_PORT else (f":{port}",)
        own_hosts = {f"{name}{suffix}" for name in names for suffix in suffixes}
        further_hosts = {f"{name}{suffix}" for name in host_names for suffix in ("", f":{port}")}
        return cls(frozenset(name.lower() for name in own_hosts | further_hosts), token)

    @property
    def session(self) -> str | None:
        """Value of the cookie of people who have entered the token; a new token ends every session."""
        return hmac.digest(self.token.encode(), _SESSION_PURPOSE, "sha256").hex() if self.token else None

    def is_token(self, text: str) -> bool:
        """Whether a text is the token, in a time that does not tell how much of it is right."""
        return self.token is not None and hmac.compare_digest(_digest(text), _digest(self.token))

    def refusal(self, scope: "Scope") -> str | None:
        """The sentence for a request of another host or site; None for any other request."""
        hosts, origins = header_values(scope, b"host"), header_values(scope, b"origin")
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return (
                f"Host {quote_values(hosts)} is refused: use the address that cv-assets serve prints, or add the name "
                "to serve.host_names."
            )
        allowed_origins = {f"{scheme}://{host}" for scheme in ("http", "https") for host in self.hosts}
        if any(origin.lower() not in allowed_origins for origin in origins):
            return (
                f"Origin {quote_values(origins)} is refused: only the pages of this server, and programs that send no "
                "Origin, may use it."
            )
        return None

    def has_token(self, scope: "Scope") -> bool:
        """Whether a request has the token or the cookie of a login, or needs neither."""
        if self.token is None or self.session is None:
            return True
        for value in header_values(scope, b"authorization"):
            scheme, _, text = value.partition(" ")
            if scheme.lower() == "bearer" and self.is_token(text.strip()):
                return True
        return any(hmac.compare_digest(_digest(value), _digest(self.session)) for value in _session_cookies(scope))


class AccessGuard:
    """An ASGI application that passes allowed requests on to another.

    Args:
        app: The application.
        access: Who may use it.
    """

    def __init__(self, app: "ASGIApp", access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a refused request with status 403 or 401 and a problem document; pass any other on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: "Message") -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_SECURITY_HEADERS]
            await send(message)

        await self._application(scope)(scope, receive, send_with_headers)

    def _application(self, scope: "Scope") -> "ASGIApp":
        """The application that answers a request."""
        from starlette.responses import RedirectResponse

        from serve.problems import problem_response

        if sentence := self._access.refusal(scope):
            return problem_response(403, sentence)
        if scope["path"] in _OPEN_PATHS or scope["path"].startswith("/static/") or self._access.has_token(scope):
            return self._app
        accepts = header_values(scope, b"accept")
        if scope.get("method") == "GET" and accepts and "text/html" in accepts[0]:
            return RedirectResponse("/login", 303)
        sentence = (
            "The token is missing or wrong: send the header Authorization: Bearer TOKEN with that of serve.token."
        )
        return problem_response(401, sentence, {"www-authenticate": "Bearer"})


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _own_addresses() -> list[str]:
    """All IP addresses of this machine."""
    families = (socket.AF_INET, socket.AF_INET6)
    interfaces = psutil.net_if_addrs().values()
    return [entry.address.partition("%")[0] for entries in interfaces for entry in entries if entry.family in families]


def _url_name(host: str) -> str:
    """A host as URLs have it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def _session_cookies(scope: "Scope") -> list[str]:
    values = []
    for header in header_values(scope, b"cookie"):
        try:
            cookie = SimpleCookie(header)
        except CookieError:
            continue
        if SESSION_COOKIE in cookie:
            values.append(cookie[SESSION_COOKIE].value)
    return values


def _digest(text: str) -> bytes:
    """Hash a text, because texts of different lengths are not compared in constant time."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
