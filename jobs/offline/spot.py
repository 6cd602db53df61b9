"""The notice that a cloud is about to take a spot machine back, asked of its metadata service by a thread.

aws     2 minutes before: an instance-action is there (IMDSv2; 404 until then)
gcp     30 seconds before: preempted is TRUE
azure   30 seconds before, at least: a scheduled event of type Preempt or Terminate that names this machine
auto    whichever of them answers

The protocols follow the clouds' public documentation; they are tested with a stand-in, not on their machines. A service
that is not there, slow or broken delays nothing and ends nothing.
"""

import contextlib
import http.client
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, get_args
from urllib.parse import urlsplit

from segtrain.errors import StopReason
from segtrain.runtime.stop import Stop

log = logging.getLogger("segtrain.queue")

Spot = Literal["aws", "gcp", "azure", "auto"]

EVERY_S = 2.0  # between two questions
ADDRESSES = {  # link-local: no other machine answers there
    "aws": "http://169.254.169.254",
    "gcp": "http://metadata.google.internal",
    "azure": "http://169.254.169.254",
}
# Azure takes up to two minutes for its first answer, with which it begins to give notices.
ANSWER_S = {"aws": 5.0, "gcp": 5.0, "azure": 130.0}
TOKEN_S = "21600"  # that a token of AWS holds, its longest
LARGEST_ANSWER = 2**20
ASKED_IN_VAIN = 5  # before it is told, once, that nobody answers

Answer = tuple[int, http.client.HTTPMessage, str]  # status, headers, text


class NoService(Exception):
    """What answered is not this cloud's metadata service, or it says that it is broken."""


@contextlib.contextmanager
def watching(spot: Spot | None, stop: Stop) -> Iterator[None]:
    """Have `stop` say RECLAIM once the cloud gives notice, within this block."""
    over = threading.Event()
    for cloud in [name for name in get_args(Spot)[:3] if spot in (name, "auto")]:
        watch = _Watch(cloud, is_sure=spot != "auto")
        threading.Thread(target=watch.run, args=(stop, over), name=f"spot-{cloud}", daemon=True).start()
    try:
        yield
    finally:
        over.set()


class _Watch:
    """Asks one cloud until it gives notice. `is_sure`: the machine is said to be this cloud's."""

    def __init__(self, cloud: str, is_sure: bool) -> None:
        self.cloud, self.is_sure = cloud, is_sure
        self._ask: Callable[[], str] = {"aws": self._aws, "gcp": self._gcp, "azure": self._azure}[cloud]
        self._token = ""  # of AWS
        self._name = ""  # of this machine at Azure

    def run(self, stop: Stop, over: threading.Event) -> None:
        """Ask again and again, until there is a notice, or it is `over`."""
        in_vain = 0
        has_answered = False
        while not over.is_set():
            try:
                notice = self._ask()
            except Exception as error:  # noqa: BLE001  (nothing that a service does may end the queue)
                in_vain += 1
                self._token = ""  # it may have expired
                if in_vain == ASKED_IN_VAIN:
                    level = logging.WARNING if self.is_sure else logging.INFO
                    log.log(level, "spot: no metadata service of %s answers (%s); asking on", self.cloud, error)
            else:
                in_vain = 0
                if not has_answered:
                    has_answered = True
                    log.info("spot: watching for a notice of %s", self.cloud)
                if notice and not over.is_set():
                    log.warning("spot: %s takes this machine back: %s", self.cloud, notice)
                    stop.ask(StopReason.RECLAIM)
                    return
            over.wait(EVERY_S)

    def _aws(self) -> str:
        """The notice; "" while there is none."""
        if not self._token:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": TOKEN_S}
            status, _, self._token = self._request("PUT", "/latest/api/token", headers)
            if status != http.client.OK:
                raise NoService(f"status {status} for a token")
        headers = {"X-aws-ec2-metadata-token": self._token}
        status, _, text = self._request("GET", "/latest/meta-data/spot/instance-action", headers)
        if status == http.client.NOT_FOUND:
            return ""
        if status != http.client.OK:
            raise NoService(f"status {status}")
        about = json.loads(text)
        return f"{about['action']} at {about['time']}"

    def _gcp(self) -> str:
        """The same."""
        path = "/computeMetadata/v1/instance/preempted"
        status, headers, text = self._request("GET", path, {"Metadata-Flavor": "Google"})
        if status != http.client.OK or headers.get("Metadata-Flavor") != "Google":
            raise NoService(f"status {status}")
        return "preempted" if text.strip().upper() == "TRUE" else ""

    def _azure(self) -> str:
        """The same. Events for other machines of a scale set or an availability set are told here too."""
        if not self._name:
            path = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
            status, _, text = self._request("GET", path, {"Metadata": "true"})
            self._name = text if status == http.client.OK and re.fullmatch(r"[\w.-]+", text) else ""
        path = "/metadata/scheduledevents?api-version=2020-07-01"
        status, _, text = self._request("GET", path, {"Metadata": "true"})
        if status != http.client.OK:
            raise NoService(f"status {status}")
        for event in json.loads(text)["Events"]:
            machines = event.get("Resources")
            concerns_us = not machines or not self._name or self._name in machines
            if event["EventType"] in ("Preempt", "Terminate") and concerns_us:
                return f"{event['EventType']}, not before {event.get('NotBefore') or 'now'}"
        return ""

    def _request(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """The answer. Past any proxy of the environment, which could not reach the machine's own service."""
        address = urlsplit(ADDRESSES[self.cloud])
        connection = http.client.HTTPConnection(address.netloc, timeout=ANSWER_S[self.cloud])
        try:
            connection.request(method, path, headers=dict(headers))
            response = connection.getresponse()
            text = response.read(LARGEST_ANSWER).decode(errors="replace")
            return response.status, response.headers, text
        finally:
            connection.close()
