"""Real servers on this machine that receive what the notifications send: webhooks and SMTP."""

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword

HOST = "127.0.0.1"


@dataclass
class Webhook:
    """A web address that receives JSON messages, and the statuses of its responses.

    Attributes:
        url: The address.
        response_statuses: Statuses of the next responses; 200 when none is left. None means that none is sent.
        messages: The bodies of all requests, in order, whatever the response.
        has_received: Set once the first request has arrived.
    """

    url: str = ""
    response_statuses: list[int | None] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    has_received: threading.Event = field(default_factory=threading.Event)


@contextmanager
def webhook_server(certificate: trustme.LeafCert | None = None) -> Iterator[Webhook]:
    """Run a web server with one address until the block ends; with a certificate it serves https."""
    webhook, is_over = Webhook(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"].startswith("application/json")
            webhook.messages.append(json.loads(body))
            status = webhook.response_statuses.pop(0) if webhook.response_statuses else 200
            webhook.has_received.set()
            if status is None:
                is_over.wait(60)
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", webhook.url)
            self.end_headers()
            self.wfile.write(f"no_service at {self.path}".encode() if status >= 400 else b"ok")

        do_GET = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer((HOST, 0), Handler)
    server.daemon_threads = True
    scheme = "http"
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        scheme = "https"
    webhook.url = f"{scheme}://{HOST}:{server.server_address[1]}/services/verysecret"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield webhook
    finally:
        is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Mailbox:
    """The mailbox of an SMTP server.

    Attributes:
        port: Port of the server.
        response: The server's response to the end of an email.
        emails: The emails that were received.
        logins: User and password of every login.
    """

    port: int = 0
    response: str = "250 OK"
    emails: list[EmailMessage] = field(default_factory=list)
    logins: list[tuple[str, str]] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """Store an email; aiosmtpd calls this at its end."""
        if self.response.startswith("250"):
            email = message_from_bytes(envelope.content, policy=default)
            assert isinstance(email, EmailMessage)
            self.emails.append(email)
        return self.response

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword) -> AuthResult:
        """Accept the password `right`; aiosmtpd calls this at a login."""
        user, password = data.login.decode(), data.password.decode()
        self.logins.append((user, password))
        return AuthResult(success=password == "right", handled=False)


class _ControllerOnFreePort(Controller):
    """Listens on a free port; `port` is its number."""

    def _trigger_server(self) -> None:
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@contextmanager
def smtp_server(
    security: str = "none", certificate: trustme.LeafCert | None = None, needs_login: bool = False
) -> Iterator[Mailbox]:
    """Run an SMTP server until the block ends.

    Args:
        security: none, starttls or ssl, as in the settings of a channel.
        certificate: The server's certificate; needed for starttls and ssl.
        needs_login: Whether it accepts emails only after a login.
    """
    mailbox, context = Mailbox(), None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)

    class Server(_ControllerOnFreePort):
        def factory(self) -> SMTP:
            return SMTP(
                mailbox,
                hostname=HOST,
                tls_context=context if security == "starttls" else None,
                require_starttls=security == "starttls",
                authenticator=mailbox.authenticate if needs_login else None,
                auth_required=needs_login,
                auth_require_tls=security == "starttls",
            )

    server = Server(mailbox, hostname=HOST, port=0, ssl_context=context if security == "ssl" else None)
    server.start()
    mailbox.port = server.port
    try:
        yield mailbox
    finally:
        server.stop()


@dataclass(frozen=True)
class CertificateAuthority:
    """A certificate authority that no system trusts.

    Attributes:
        certificate: Certificate of the servers on this machine.
        file: The authority's own certificate, for the setting `ca_file`.
    """

    certificate: trustme.LeafCert
    file: Path


def create_certificate_authority(folder: Path) -> CertificateAuthority:
    """Create certificates that a client trusts only through `ca_file`."""
    root = trustme.CA()
    file = folder / "authority.pem"
    root.cert_pem.write_to_path(str(file))
    return CertificateAuthority(root.issue_cert(HOST), file)
