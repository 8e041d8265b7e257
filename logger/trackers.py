"""YOURS to extend: experiment trackers, which get a run's numbers and images, named in the config's "trackers"."""

import json
import re
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from logger.base_tracker import BaseTracker, config_values
from utils.files import cut, open_to_append
from utils.untrusted import as_count

if TYPE_CHECKING:
    import numpy as np


class JsonLines(BaseTracker):
    """metrics.jsonl in the log folder, with {"step": 12, "loss/train": 0.5, ...} on each line; nan and inf are null."""

    def __init__(self) -> None:
        self.path: Any = None
        self.length = 0  # bytes written

    def start(self, log_dir: Path, config: dict[str, Any]) -> None:
        self.path = log_dir / "metrics.jsonl"
        with open_to_append(self.path) as file:
            self.length = min(self.length, file.tell())

    def add_rows(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        lines = b"".join(json.dumps({"step": step, **_finite(row)}).encode() + b"\n" for step, row in rows)
        cut(self.path, self.length)  # removes the rows after the step that the run resumed from
        try:
            with open_to_append(self.path) as file:
                file.write(lines)
        except OSError:
            cut(self.path, self.length)  # leaves no half line
            raise
        self.length += len(lines)

    def state_dict(self) -> dict[str, Any]:
        return {"length": self.length}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.length = as_count(state["length"])


class Wandb(BaseTracker):
    """A run of Weights & Biases, drawn over the axis "step". Its local files are in the run's log folder.

    project: name of the project there.
    entity: user or team that owns the project; None for the account's default.
    name: name of the run; None for the run folder's.
    group: name of a group of runs.
    tags: tags of the run.
    mode: "offline" keeps everything in the local files, for `wandb sync`.
    """

    needs_package = "wandb"

    def __init__(
        self,
        project: str,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Literal["online", "offline"] = "online",
    ) -> None:
        self.settings = {"project": project, "entity": entity, "name": name, "group": group, "tags": tags, "mode": mode}
        self.run_id = uuid.uuid4().hex[:16]
        self.run: Any = None

    def start(self, log_dir: Path, config: dict[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        settings = self.settings | {"name": self.settings["name"] or log_dir.name}
        self.run = wandb.init(
            **settings,
            id=self.run_id,
            resume="allow",
            dir=str(log_dir),
            config=config,
            allow_val_change=True,
            settings=wandb.Settings(console="off"),
        )
        self.run.define_metric("*", step_metric="step")  # wandb's own axis cannot go back, as a resumed run does

    def add_rows(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        for step, row in rows:
            self.run.log({"step": step, **row})

    def add_image(self, tag: str, image: "np.ndarray", step: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self.run.log({"step": step, tag: wandb.Image(image)})

    def close(self, outcome: str) -> None:
        self.run.finish(exit_code={"finished": 0, "failed": 1, "stopped": 255}[outcome])

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run_id = _id(state["run_id"])


class Mlflow(BaseTracker):
    """A run of MLflow, whose parameters are the config's values and whose artifact config.json is the config.

    tracking_uri: address of the store, as "sqlite:///mlflow.db"; None for MLflow's own default.
    experiment: name of the experiment.
    name: name of the run; None for the run folder's.
    """

    needs_package = "mlflow"

    def __init__(self, tracking_uri: str | None = None, experiment: str = "Default", name: str | None = None) -> None:
        self.tracking_uri, self.experiment, self.name = tracking_uri, experiment, name
        self.run_id = None
        self.client: Any = None

    def start(self, log_dir: Path, config: dict[str, Any]) -> None:
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        self.client = MlflowClient(self.tracking_uri)
        if self.run_id is None:
            found = self.client.get_experiment_by_name(self.experiment)
            experiment_id = found.experiment_id if found else self.client.create_experiment(self.experiment)
            self.run_id = self.client.create_run(experiment_id, run_name=self.name or log_dir.name).info.run_id
            self._log_params(config)
        self.client.update_run(self.run_id, status="RUNNING")
        self.client.log_dict(self.run_id, config, "config.json")  # unlike parameters, a later start may change it

    def add_rows(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = round(1000 * time.time())
        metrics = [Metric(tag, value, now, step) for step, row in rows for tag, value in row.items()]
        for i in range(0, len(metrics), 1000):  # MLflow's limit
            self.client.log_batch(self.run_id, metrics=metrics[i : i + 1000])

    def add_image(self, tag: str, image: "np.ndarray", step: int) -> None:
        self.client.log_image(self.run_id, image, key=tag, step=step)

    def close(self, outcome: str) -> None:
        self.client.set_terminated(self.run_id, {"stopped": "KILLED"}.get(outcome, outcome.upper()))

    def state_dict(self) -> dict[str, Any]:
        return {"run_id": self.run_id}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run_id = _id(state["run_id"])

    def _log_params(self, config):
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        # MLflow's limits: these characters in names, 250 of them; 6000 in values; 100 values at once
        params = [
            Param(re.sub(r"[^\w\-. :/]", "_", path)[:250], str(value)[:6000]) for path, value in config_values(config)
        ]
        for i in range(0, len(params), 100):
            self.client.log_batch(self.run_id, params=params[i : i + 100])


class Trackio(BaseTracker):
    """A run of trackio, which keeps its data on this machine (TRACKIO_DIR) and draws them with `trackio show`.

    project: name of the project there.
    name: name of the run; None for the run folder's.
    group: name of a group of runs.
    space: a Space of Hugging Face to send the data to, as "user/space"; None for this machine alone.
    """

    needs_package = "trackio"

    def __init__(
        self, project: str, name: str | None = None, group: str | None = None, space: str | None = None
    ) -> None:
        self.project, self.group, self.space = project, group, space
        self.run_name = name
        self.run: Any = None

    def start(self, log_dir: Path, config: dict[str, Any]) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self.run_name = self.run_name or log_dir.name
        self.run = trackio.init(
            self.project,
            name=self.run_name,
            group=self.group,
            space_id=self.space,
            config=config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def add_rows(self, rows: list[tuple[int, dict[str, float]]]) -> None:
        for step, row in rows:
            self.run.log(row, step=step)

    def add_image(self, tag: str, image: "np.ndarray", step: int) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self.run.log({tag: trackio.Image(image)}, step=step)

    def close(self, outcome: str) -> None:
        self.run.finish()

    def state_dict(self) -> dict[str, Any]:
        return {"run_name": self.run_name}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.run_name = None if state["run_name"] is None else str(state["run_name"])[:250]


def _id(text):
    """A run's id from a checkpoint. Raises ValueError for anything else."""
    if text is not None and not (isinstance(text, str) and re.fullmatch(r"[\w-]{1,64}", text)):
        raise ValueError(f"{text!r} is not the id of a run"[:200])
    return text


def _finite(row):
    return {tag: value if abs(value) < float("inf") else None for tag, value in row.items()}
