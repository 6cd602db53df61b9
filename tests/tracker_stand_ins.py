"""Stand-ins for wandb, mlflow and swanlab, as their API documents say: what they take, refuse, and keep on a server."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


@dataclass
class Kept:
    """A run as a server has it. refused: points that it did not take."""

    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    refused: int = 0
    end: Any = None
    init: dict[str, Any] = field(default_factory=dict)


def wandb(server: dict[str, Kept], has_key: bool = True) -> ModuleType:
    """wandb.init(id=, resume="allow"), Run.log(data, step): steps that are not above the last are dropped."""
    module = ModuleType("wandb")

    class Error(Exception):
        pass

    @dataclass
    class Settings:
        console: str = "auto"
        disable_code: bool = False
        disable_git: bool = False
        save_code: bool | None = None
        silent: bool = False
        x_disable_machine_info: bool = False
        x_disable_meta: bool = False
        x_disable_stats: bool = False
        x_save_requirements: bool = True

    class Run:
        def __init__(self, kept: Kept, folder: Any) -> None:
            self.config = SimpleNamespace(update=self._update)
            self.summary = SimpleNamespace(update=kept.summary.update)
            self.settings = SimpleNamespace(sync_dir=folder)
            self.url = "https://here/run"
            self._kept = kept

        def _update(self, values: dict[str, Any], allow_val_change: bool = False) -> None:
            changed = [key for key, value in values.items() if self._kept.config.get(key, value) != value]
            if changed and not allow_val_change:
                raise Error(f"Attempted to change value of key {changed}")
            self._kept.config |= values

        def define_metric(self, name: str, step_metric: str | None = None, hidden: bool | None = None) -> None:
            assert name in ("*", "step")

        def log(self, data: dict[str, Any], step: int) -> None:
            if self._kept.rows and step <= self._kept.rows[-1]["_step"]:
                self._kept.refused += 1
            else:
                self._kept.rows.append({**data, "_step": step})

        def finish(self, exit_code: int) -> None:
            self._kept.end = exit_code

    def init(
        *, project: str, id: str, name: str, group: str | None, dir: Path | None, mode: str,  # noqa: A002
        resume: str | None, settings: Settings,
    ) -> Run:  # fmt: skip
        if mode == "offline" or resume is None or id not in server:
            server[id] = Kept()
        server[id].init = {"project": project, "name": name, "group": group, "mode": mode, "resume": resume}
        return Run(server[id], dir)

    module.__dict__.update(
        errors=SimpleNamespace(Error=Error), Settings=Settings, init=init, login=lambda prompt: has_key
    )
    return module


def swanlab(server: dict[str, Kept]) -> ModuleType:
    """swanlab.init(id=, resume="allow"), Run.log(data, step): each curve takes no step that is not above its last."""
    module = ModuleType("swanlab")
    now: list[Kept] = []

    class Run:
        url, dir = "https://here/run", Path("run-1")

        def log(self, data: dict[str, Any], step: int) -> None:
            for key, value in data.items():
                last = max((row["step"] for row in now[-1].rows if key in row), default=-1)
                if step <= last:
                    now[-1].refused += 1
                else:
                    now[-1].rows.append({key: value, "step": step})

    def init(
        *, project: str, name: str, id: str, group: str | None, log_dir: str | None, mode: str,  # noqa: A002
        resume: str | None, config: dict[str, Any], settings: Any,
    ) -> Run:  # fmt: skip
        assert resume == ("allow" if mode == "online" else None), "resume is of the online mode"
        assert None not in config.values()
        now.append(server.setdefault(id, Kept()) if mode == "online" else Kept())
        server[id] = now[-1]
        now[-1].config |= config
        return Run()

    def finish(state: str, error: str | None) -> None:
        assert state in ("success", "crashed", "aborted")
        assert (error is not None) == (state == "crashed")
        now[-1].end = state

    module.__dict__.update(
        exceptions=SimpleNamespace(AuthenticationError=type("AuthenticationError", (Exception,), {})),
        Settings=lambda **values: values, init=init, finish=finish,
    )  # fmt: skip
    return module


@dataclass(frozen=True)
class Metric:
    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True)
class Text:
    key: str
    value: str


def mlflow(server: dict[str, Any], refuses: str = "") -> ModuleType:  # noqa: C901  a class
    """MlflowClient: at most 1000 metrics and 100 parameters a call; a parameter is written once, a point kept once."""
    module = ModuleType("mlflow")

    class MlflowException(Exception):
        pass

    class Client:
        def __init__(self, tracking_uri: str) -> None:
            self.runs = server.setdefault(tracking_uri, [])

        def get_experiment_by_name(self, name: str) -> Any:
            if refuses:
                raise MlflowException(refuses)
            return SimpleNamespace(experiment_id="1")

        def search_runs(self, experiments: Sequence[str], filter_string: str, max_results: int) -> list[Any]:
            tag, _, value = filter_string.removeprefix("tags.`").partition("` = ")
            return [run for run in self.runs if run.data.tags.get(tag) == value.strip("'")][:max_results]

        def create_run(self, experiment: str, start_time: int | None, tags: dict[str, str], run_name: str) -> Any:
            data = SimpleNamespace(params={}, metrics={}, tags=dict(tags))
            info = SimpleNamespace(run_id=str(len(self.runs)), status="RUNNING", run_name=run_name)
            self.runs.append(SimpleNamespace(info=info, data=data, points={}))
            return self.runs[-1]

        def log_batch(
            self, run_id: str, metrics: Sequence[Metric] = (), params: Sequence[Text] = (), tags: Sequence[Text] = ()
        ) -> None:
            run = self.runs[int(run_id)]
            if len(metrics) > 1000 or len(params) > 100 or len(metrics) + len(params) + len(tags) > 1000:
                raise MlflowException("too many")
            for param in params:
                if run.data.params.setdefault(param.key, param.value) != param.value:
                    raise MlflowException("Changing param values is not allowed")
            run.points.update(dict.fromkeys(metrics))
            run.data.metrics |= {metric.key: metric.value for metric in metrics}
            run.data.tags |= {tag.key: tag.value for tag in tags}

        def set_tag(self, run_id: str, key: str, value: str) -> None:
            self.runs[int(run_id)].data.tags[key] = value

        def update_run(self, run_id: str, status: str) -> None:
            self.runs[int(run_id)].info.status = status

        def set_terminated(self, run_id: str, status: str, end_time: int | None) -> None:
            self.runs[int(run_id)].info.status = status

    module.__dict__.update(
        MlflowClient=Client, entities=SimpleNamespace(Metric=Metric, Param=Text, RunTag=Text),
        exceptions=SimpleNamespace(MlflowException=MlflowException),
    )  # fmt: skip
    return module
