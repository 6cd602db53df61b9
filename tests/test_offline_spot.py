"""A cloud's notice that it takes a queue's machine back, from a stand-in for its metadata service on loopback."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from queues import StandIns, command, ends, entries, write

from jobs.offline import spot
from jobs.queue.journal import Journal
from segtrain.errors import StopReason
from segtrain.runtime.stop import Stop

EVENT: dict[str, object] = {
    "EventId": "1",
    "EventType": "Preempt",
    "ResourceType": "VirtualMachine",
    "Resources": ["me"],
}
CLOUDS = ("aws", "gcp", "azure")


class Service:
    """The metadata services of three clouds at one address, as their documentation has them. `notice`: whether."""

    def __init__(self) -> None:
        self.notice: Callable[[], bool] = lambda: False
        self.events = [EVENT]
        self.asked: list[str] = []
        self.tokens = 0
        self.expired = False  # the token of AWS
        self.instead: Callable[[BaseHTTPRequestHandler], bool] = lambda _: False  # answers otherwise

    def answer(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], str]:
        headers, method = request.headers, request.command
        path = request.path
        self.asked.append(f"{method} {path}")
        if path == "/latest/api/token" and method == "PUT" and headers["X-aws-ec2-metadata-token-ttl-seconds"]:
            self.tokens += 1
            self.expired = False
            return 200, {}, f"token-{self.tokens}"
        if path == "/latest/meta-data/spot/instance-action":
            if self.expired or headers["X-aws-ec2-metadata-token"] != f"token-{self.tokens}":
                return 401, {}, ""
            return (
                (200, {}, '{"action": "terminate", "time": "2026-01-01T00:00:00Z"}') if self.notice() else (404, {}, "")
            )
        if path == "/computeMetadata/v1/instance/preempted" and headers["Metadata-Flavor"] == "Google":
            return 200, {"Metadata-Flavor": "Google"}, "TRUE" if self.notice() else "FALSE"
        if path.startswith("/metadata/") and headers["Metadata"] == "true":
            if path == "/metadata/instance/compute/name?api-version=2021-02-01&format=text":
                return 200, {}, "me"
            if path == "/metadata/scheduledevents?api-version=2020-07-01":
                return 200, {}, json.dumps({"DocumentIncarnation": 1, "Events": self.events if self.notice() else []})
        return 404, {}, "<html>"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if service.instead(self):
                return
            status, headers, text = service.answer(self)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        do_PUT = do_GET  # noqa: N815  (the names of http.server)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    monkeypatch.setattr(spot, "EVERY_S", 0.02)
    at(monkeypatch, server.server_port)
    yield service
    server.shutdown()
    thread.join()
    server.server_close()


def at(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    for cloud in CLOUDS:
        monkeypatch.setitem(spot.ADDRESSES, cloud, f"http://127.0.0.1:{port}")


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.law("L8")
@pytest.mark.parametrize("cloud", [*CLOUDS, "auto"])
def test_a_queue_whose_machine_is_taken_back_saves_and_the_next_machine_goes_on(
    tmp_path: Path, stand_ins: StandIns, service: Service, cloud: str
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    sync = ("--sync", str(tmp_path / "bucket"))
    service.notice = (first / "runs" / ".jobs" / "night" / "stand-ins" / "a" / "ready").exists
    stand_ins.words["a"] = ["gain"]
    by = ["--spot", cloud] if cloud != "gcp" else []
    queue = write(first, spot="gcp") if cloud == "gcp" else write(first)
    assert command(queue, *by, *sync, "--when-done", f"touch {tmp_path}/hook") == 75
    assert ends(first) == [("a", "stopped")]
    assert entries(first, "end")[0]["step"] == 1
    [left] = entries(first, "left")
    assert (left["reason"], left["why"]) == ("RECLAIM", "the notice that this machine is taken back")
    assert not (tmp_path / "hook").exists()
    service.notice = lambda: False
    stand_ins.words["a"] = ["finish"]
    assert command(write(second), "--spot", cloud, *sync) == 0
    assert [entry["step"] for entry in entries(second, "start")] == [0, 1, 0]


def hang(_: BaseHTTPRequestHandler) -> bool:
    time.sleep(0.3)
    return True


def close(_: BaseHTTPRequestHandler) -> bool:
    return True


def garbage(request: BaseHTTPRequestHandler) -> bool:
    request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\x00\xff garb")
    return True


def refuse(request: BaseHTTPRequestHandler) -> bool:
    request.send_error(500)
    return True


@pytest.mark.law("L8")
@pytest.mark.parametrize("instead", [hang, close, garbage, refuse, None])
@pytest.mark.parametrize("cloud", [*CLOUDS, "auto"])
def test_a_service_that_is_absent_slow_or_broken_neither_ends_a_queue_nor_holds_it_up(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cloud: spot.Spot,
    instead: Callable[[BaseHTTPRequestHandler], bool] | None,
) -> None:
    caplog.set_level("INFO", "segtrain.queue")
    if instead is None:
        at(monkeypatch, 9)  # nobody is there
    else:
        service.instead = instead
    stop = Stop()
    for name in CLOUDS:
        monkeypatch.setitem(spot.ANSWER_S, name, 0.05 if instead is hang else 5.0)
    with spot.watching(cloud, stop):
        wait_for(lambda: caplog.text.count("answers (") >= (3 if cloud == "auto" else 1))
        assert stop.reason() is None
        service.instead, service.notice = (lambda _: False), (lambda: True)
        if instead:  # it recovers, and gives notice
            wait_for(stop.reason)
            assert stop.reason() is StopReason.RECLAIM
    assert caplog.text.count("; asking on") <= 3, "it is told once"


def test_a_notice_s_service_that_hangs_delays_no_queue(tmp_path: Path, stand_ins: StandIns, service: Service) -> None:
    over = threading.Event()
    service.instead = lambda _: over.wait(60)
    began_s = time.monotonic()
    assert command(write(tmp_path), "--spot", "auto") == 0
    over.set()
    assert time.monotonic() - began_s < 30
    assert ends(tmp_path) == [("a", "finished"), ("b", "finished")]


def test_a_token_that_has_expired_is_asked_for_again(service: Service) -> None:
    stop = Stop()
    with spot.watching("aws", stop):
        wait_for(lambda: len(service.asked) > 4)
        assert service.tokens == 1
        service.expired = True
        wait_for(lambda: service.tokens == 2)
        service.notice = lambda: True
        wait_for(stop.reason)


@pytest.mark.parametrize("change", [{"Resources": ["another"]}, {"EventType": "Freeze"}])
def test_what_azure_does_to_others_or_for_a_moment_stops_nothing(service: Service, change: dict[str, object]) -> None:
    stop = Stop()
    service.events, service.notice = [EVENT | change], lambda: True
    with spot.watching("azure", stop):
        wait_for(lambda: len(service.asked) > 9)
        assert stop.reason() is None
        service.events = [EVENT | change, EVENT]
        wait_for(stop.reason)


def test_without_the_option_nothing_is_asked(tmp_path: Path, stand_ins: StandIns, service: Service) -> None:
    assert command(write(tmp_path)) == 0
    assert service.asked == []


def test_a_reclaim_does_not_renew_the_hours(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    times = iter(["2026-01-01T00:00:00+00:00", "2026-01-01T01:00:00+00:00", "2026-01-01T02:00:00+00:00"])
    for event, values in [("begin", {}), ("left", {"reason": "RECLAIM", "why": "any"}), ("begin", {})]:
        journal.write(event, **values)
        journal.entries[-1]["time"] = next(times)
    assert journal.began_s() == 1767225600
