"""Real servers on this machine that take the messages which a test has sent."""

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
class Hook:
    """A web address that takes what is posted, and answers as it is told to.

    Attributes:
        answers: Statuses of the next answers; 200 when none is left. None means never to answer.
        posted: What was posted, in order, whatever the answer.
        has_come: Set once anything was posted.
    """

    url: str = ""
    answers: list[int | None] = field(default_factory=list)
    posted: list[dict[str, Any]] = field(default_factory=list)
    has_come: threading.Event = field(default_factory=threading.Event)


@contextmanager
def hook(certificate: trustme.LeafCert | None = None) -> Iterator[Hook]:
    """A web server with one address; with a certificate it speaks https."""
    found, ended = Hook(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"].startswith("application/json")
            found.posted.append(json.loads(body))
            status = found.answers.pop(0) if found.answers else 200
            found.has_come.set()
            if status is None:
                ended.wait(60)
                return
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", found.url)
            self.end_headers()
            self.wfile.write(b"no_service" if status >= 400 else b"ok")

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
    found.url = f"{scheme}://{HOST}:{server.server_address[1]}/services/verysecret"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class MailBox:
    """A mail server's box.

    Attributes:
        port: Where the server listens.
        answer: How it answers the end of a mail.
        mails: What was sent.
        users: Who logged in, with what password.
    """

    port: int = 0
    answer: str = "250 OK"
    mails: list[EmailMessage] = field(default_factory=list)
    users: list[tuple[str, str]] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """As aiosmtpd calls it."""
        if self.answer.startswith("250"):
            mail = message_from_bytes(envelope.content, policy=default)
            assert isinstance(mail, EmailMessage)
            self.mails.append(mail)
        return self.answer

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword) -> AuthResult:
        """As aiosmtpd calls it."""
        user, password = data.login.decode(), data.password.decode()
        self.users.append((user, password))
        return AuthResult(success=password == "right", handled=False)


class _AnyPort(Controller):
    """Listens on a port that is free, and knows which."""

    def _trigger_server(self) -> None:
        assert self.server is not None
        self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@contextmanager
def mail_server(
    security: str = "none", certificate: trustme.LeafCert | None = None, needs_login: bool = False
) -> Iterator[MailBox]:
    """A mail server that encrypts as told, and takes mails."""
    box, context = MailBox(), None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(context)

    class Server(_AnyPort):
        def factory(self) -> SMTP:
            return SMTP(
                box,
                hostname=HOST,
                tls_context=context if security == "starttls" else None,
                require_starttls=security == "starttls",
                authenticator=box.authenticate if needs_login else None,
                auth_required=needs_login,
                auth_require_tls=security == "starttls",
            )

    server = Server(box, hostname=HOST, port=0, ssl_context=context if security == "ssl" else None)
    server.start()
    box.port = server.port
    try:
        yield box
    finally:
        server.stop()


@dataclass(frozen=True)
class Authority:
    """Somebody whom only this test trusts.

    Attributes:
        certificate: Of the servers on this machine.
        file: The authority's own certificate, for `ca_file`.
    """

    certificate: trustme.LeafCert
    file: Path


def authority(folder: Path) -> Authority:
    """Make certificates that only `ca_file` can make known."""
    root = trustme.CA()
    file = folder / "authority.pem"
    root.cert_pem.write_to_path(str(file))
    return Authority(root.issue_cert(HOST), file)
