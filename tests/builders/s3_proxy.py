"""A proxy before an S3 server, as a program: it loses the answer to the first commit of a table that was carried out.

Its arguments are the address of the server and the name of the table; it prints its own port.
"""

import http.client
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


def main() -> None:
    """Serve until killed."""
    server, table_name = urlsplit(sys.argv[1]), sys.argv[2]
    lost: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: object) -> None:
            """Print nothing."""

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            connection = http.client.HTTPConnection(server.hostname or "", server.port)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            content = answer.read()
            is_commit = self.command == "PUT" and f"/{table_name}/_delta_log/" in self.path
            if is_commit and not self.path.endswith(f"{0:020}.json") and not lost:
                lost.append(self.path)
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                is_length = name.lower() == "content-length" and self.command != "HEAD"
                if not is_length and name.lower() not in ("transfer-encoding", "connection"):
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("content-length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _forward  # noqa: N815

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(proxy.server_port, flush=True)
    proxy.serve_forever()


if __name__ == "__main__":
    main()
