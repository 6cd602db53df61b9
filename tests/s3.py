"""An S3 server on loopback, moto's, with faults: refusals, cut connections, changed bytes, lost and damaged objects."""

import io
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import make_server

READ_TIMEOUT_S = 2.0
XML = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>injected</Message></Error>'

# What may go wrong with a request of a method; `list` is the GET of a listing.
FAULTS = [
    *((method, fault) for method in ("GET", "PUT", "list", "HEAD") for fault in ("500", "503")),
    *((method, fault) for method in ("GET", "PUT", "list") for fault in ("cut", "slow")),
    *(("PUT", fault) for fault in ("changed", "truncated", "unsaved")),
    ("GET", "changed"),
    ("DELETE", "500"),
    ("DELETE", "cut"),
]


@dataclass
class Faults:
    """The faults still to come, each with the method that it waits for; `made`: those that have been."""

    seed: int = 0
    left: list[tuple[str, str]] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)  # access keys of machines that are dead
    often: float = 0.2  # a request meets a fault

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def of(self, method: str) -> str:
        """The fault of a request, "" for most."""
        with self._lock:
            for fault in self.left:
                if fault[0] == method and self._random.random() < self.often:
                    self.left.remove(fault)
                    self.made.append(f"{fault[1]} {method}")
                    return fault[1]
        return ""


class Objects:
    """What the server holds, changed behind its back."""

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self._backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]

    def make(self) -> None:
        self._backend.create_bucket(self.bucket, "us-east-1")

    def keys(self) -> list[str]:
        return sorted(self._backend.buckets[self.bucket].keys)

    def damage(self, key: str, how: str) -> None:
        """`changed`: one byte; `truncated`: to its half; `unsaved`: gone."""
        stored = self._backend.get_object(self.bucket, key)
        assert stored is not None
        content = stored.value
        self._backend.delete_object(self.bucket, key)
        if how != "unsaved":
            self._backend.put_object(self.bucket, key, spoiled(content, how))


def spoiled(content: bytes, how: str) -> bytes:
    half = len(content) // 2
    if how == "changed" and content:
        return content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    return content[:half]


class Store:
    """moto's application behind faults; `faults` may be replaced at any time."""

    def __init__(self) -> None:
        self.faults = Faults()
        self._app = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        key = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]
        method = environ["REQUEST_METHOD"]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        if key in self.faults.refused:
            return _refuse(start_response, "403 Forbidden", "AccessDenied")
        fault = self.faults.of("list" if method == "GET" and "list-type" in environ["QUERY_STRING"] else method)
        if fault == "500":
            return _refuse(start_response, "500 Internal Server Error", "InternalError")
        if fault == "503":
            return _refuse(start_response, "503 Slow Down", "SlowDown")
        if fault == "slow":
            time.sleep(READ_TIMEOUT_S + 0.5)
        if fault == "cut" and method != "GET":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return _refuse(start_response, "200 OK", "")
        response: Iterable[bytes] = self._app(environ, start_response)
        if method == "PUT" and fault in ("changed", "truncated", "unsaved"):
            bucket, _, name = environ["PATH_INFO"].lstrip("/").partition("/")
            Objects(bucket).damage(name, fault)
        if method == "GET" and fault == "changed":
            return [spoiled(b"".join(response), fault)]
        if fault == "cut":
            return _half(b"".join(response), environ["werkzeug.socket"])
        return response


def _refuse(start_response: Callable[..., Any], status: str, code: str) -> list[bytes]:
    content = XML.format(code).encode()
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(content)))])
    return [content]


def _half(content: bytes, connection: socket.socket) -> Iterator[bytes]:
    yield content[: len(content) // 2]
    connection.shutdown(socket.SHUT_RDWR)


class Quiet(MotoRequestHandler):
    """Logs nothing, not even that a client has gone."""

    def log(self, *_: Any, **__: Any) -> None:
        pass


@contextmanager
def serving(store: Store) -> Iterator[str]:
    """The address of a server of the store, stopped afterwards."""
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        with suppress(OSError):
            server.server_close()
