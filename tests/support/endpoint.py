"""A small OpenAI-compatible server in this process: real HTTP, answers as a test wants them, or wrong on request."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class Wrong:
    """An answer that is none: a status, a body as it stands, a wait before it."""

    status: int = 200
    body: str = "{}"
    headers: dict[str, str] = field(default_factory=dict)
    after_s: float = 0.0


@dataclass
class Asked:
    """What the server has seen: every request's JSON, its headers, and how many it had in flight at most."""

    requests: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most: int = 0
    url: str = ""


@contextmanager
def endpoint(answer: Callable[[Any], Any], tls: Path | None = None, delay_s: float = 0.0) -> Iterator[Asked]:
    """Serve `answer(request)`: a text (a chat completion of it), a dict (that JSON), or a `Wrong`.

    `tls` is a folder with the files of `certificate`.
    """
    asked, lock, flying = Asked(), threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, json.dumps({"data": [{"id": "tiny-judge"}]}), {})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                asked.requests.append(request)
                asked.headers.append(dict(self.headers))
                flying[0] += 1
                asked.most = max(asked.most, flying[0])
            time.sleep(delay_s)
            found = answer(request)
            if isinstance(found, str):
                found = completion(found)
            with lock:
                flying[0] -= 1
            if isinstance(found, Wrong):
                time.sleep(found.after_s)
                self._send(found.status, found.body, found.headers)
            else:
                self._send(200, json.dumps(found), {})

        def _send(self, status: int, body: str, headers: dict[str, str]) -> None:
            try:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())
            except OSError:
                pass  # the client did not wait

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            pass  # a client that hangs up, or does not trust the certificate

    server = Server(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "certificate.pem", tls / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    asked.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()


def completion(text: str, top: list[list[tuple[str, float]]] | None = None, **more: Any) -> dict[str, Any]:
    """OpenAI's JSON of an answer; `top` is (token, log-prob) of the likeliest tokens at each place."""
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
    if top:
        places = [[{"token": token, "logprob": logprob} for token, logprob in place] for place in top]
        choice["logprobs"] = {"content": [{**place[0], "top_logprobs": place} for place in places]}
    usage = {"prompt_tokens": 100, "completion_tokens": len(text.split())}
    return {"choices": [choice], "usage": usage}


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed but itself; the folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    plain, form = serialization.NoEncryption(), serialization.PrivateFormat.PKCS8
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return folder
