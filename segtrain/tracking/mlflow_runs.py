"""Runs in MLflow (3.17: MlflowClient, log_batch), in a database or on a server.

A run is found by its id, which is a tag, and another tag says how far it was sent: the store is asked, not the run's
folder. A database takes no point twice, since time, step and value are the event's own.
"""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from segtrain.run.tracked import Sent
from segtrain.runtime.optional_package import package
from segtrain.tracking.record import Record, Setting
from segtrain.tracking.tracker import Destination, explained

URI = "sqlite:///mlflow.db"  # MLflow's own default
ID, POSITION, DIGEST = "segtrain.id", "segtrain.position", "segtrain.digest"
MOST_METRICS, MOST_PARAMS = 900, 90  # of a call; the server takes 1000 and 100, with the tags
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "diverged": "FAILED", "failed": "FAILED", "running": "RUNNING"}


class MlflowRuns:
    """An experiment in a store of MLflow."""

    def __init__(self, to: Destination) -> None:
        """Raises ConfigError: no mlflow."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # to the vendor
        package("mlflow", "--to mlflow")
        from mlflow import MlflowClient, entities, exceptions

        self._to = to
        self._entities = entities
        self._kinds = (exceptions.MlflowException, OSError, ImportError)
        self._uri = to.uri or os.environ.get("MLFLOW_TRACKING_URI") or URI
        with self._errors():
            self._client = MlflowClient(tracking_uri=self._uri)
        self._experiment: str | None = None

    @property
    def place(self) -> str:
        return f"mlflow {without_password(self._uri)} {self._to.project}"

    def _errors(self) -> AbstractContextManager[None]:
        remedy = f"check --uri (or MLFLOW_TRACKING_URI), as --uri {URI}; a database needs sqlalchemy and alembic"
        return explained(self.place, self._kinds, remedy)

    def sent(self, record: Record) -> Sent | None:
        with self._errors():
            run = self._run(record)
        if run is None:
            return Sent()
        position = str(run.data.tags.get(POSITION, ""))
        return Sent(int(position) if position.isdecimal() else -1, run.data.tags.get(DIGEST, ""))

    def send(self, record: Record, after: int) -> str:
        with self._errors():
            run = self._run(record) or self._create(record)
            self._send(run, record, [point for point in record.points if point.position > after])
        return f"{without_password(self._uri)}, experiment {self._to.project}, run {run.info.run_id}"

    def _run(self, record: Record) -> Any:
        """The run with the record's id; None where there is none."""
        by_id = f"tags.`{ID}` = '{record.id}'"
        runs = self._client.search_runs([self._experiment_id()], filter_string=by_id, max_results=1)
        return runs[0] if runs else None

    def _experiment_id(self) -> str:
        if self._experiment is None:
            experiment = self._client.get_experiment_by_name(self._to.project)
            self._experiment = (
                experiment.experiment_id if experiment else self._client.create_experiment(self._to.project)
            )
        return self._experiment

    def _create(self, record: Record) -> Any:
        began_ms = int(record.points[0].time * 1000) if record.points else None
        return self._client.create_run(self._experiment_id(), began_ms, {ID: record.id}, run_name=record.name)

    def _send(self, run: Any, record: Record, points: Sequence[Any]) -> None:
        """Points first, in order, each call with how far it came; the digest last, when all is there."""
        entities, run_id = self._entities, run.info.run_id
        for chunk in _chunks(points):
            metrics = [
                entities.Metric(key, value, int(point.time * 1000), point.step)
                for point in chunk
                for key, value in point.values.items()
            ]
            self._client.log_batch(run_id, metrics, tags=[entities.RunTag(POSITION, str(chunk[-1].position))])
        params, changed = _new_and_changed(record.settings, run.data.params)
        for first in range(0, len(params), MOST_PARAMS):
            part = [entities.Param(key, value) for key, value in params[first : first + MOST_PARAMS]]
            self._client.log_batch(run_id, params=part)
        now_ms, step = int(time.time() * 1000), record.points[-1].step if record.points else 0
        scores = {key: value for key, value in record.scores.items() if run.data.metrics.get(key) != value}
        for first in range(0, len(scores), MOST_METRICS):
            part = [
                entities.Metric(key, value, now_ms, step) for key, value in [*scores.items()][first:][:MOST_METRICS]
            ]
            self._client.log_batch(run_id, part)
        facts = {f"segtrain.{_key(name)}": text for name, text in record.facts.items()}
        group = {"segtrain.group": record.group} if record.group else {}
        tags = {**{f"config.{key}": value for key, value in changed}, **facts, **group, DIGEST: record.digest}
        for key, value in tags.items():
            self._client.set_tag(run_id, key, value)
        ended_ms = int(record.points[-1].time * 1000) if record.points else None
        if record.state == "running":
            self._client.update_run(run_id, status="RUNNING")
        else:
            self._client.set_terminated(run_id, STATUS.get(record.state, "FAILED"), ended_ms)


def _chunks(points: Sequence[Any]) -> Iterator[list[Any]]:
    """The points in order, in as many calls as are needed: a point stays whole."""
    chunk: list[Any] = []
    size = 0
    for point in points:
        if chunk and size + len(point.values) > MOST_METRICS:
            yield chunk
            chunk, size = [], 0
        chunk.append(point)
        size += len(point.values)
    if chunk:
        yield chunk


def _new_and_changed(
    settings: Mapping[str, Setting], known: Mapping[str, str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Settings that the run does not have, and those that a later start changed: a parameter is never written twice."""
    values = {_key(key): _value(value) for key, value in settings.items() if value is not None}
    new = [(key, value) for key, value in values.items() if key not in known]
    return new, [(key, value) for key, value in values.items() if known.get(key, value) != value]


def _key(text: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w./-]", "_", text).strip("./")


def _value(value: Setting) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def without_password(uri: str) -> str:
    """The address without user, password and query, which may hold a key."""
    scheme, colon, rest = re.split(r"[?#]", uri)[0].partition("://")  # urlsplit takes a slash off sqlite:////a
    host, slash, path = rest.partition("/")
    return f"{scheme}{colon}{host.rpartition('@')[2]}{slash}{path}"
