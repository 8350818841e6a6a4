"""MLflow: runs of an experiment on a server (`MLFLOW_TRACKING_URI`), or in `mlflow.db` beside the command."""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

from xtuner.engine.trackers.facts import TrackedRun
from xtuner.engine.trackers.tracker import DEFAULT_PROJECT, Sample, Tracker, need

_TABLE = "samples.json"
# What MLflow takes in one call, and of one text.
_PARAMS_IN_CALL, _MAX_KEY, _MAX_VALUE = 100, 250, 6000


class MlflowTracker(Tracker):
    """Writes a run of MLflow, without making it the process's active one."""

    name = "mlflow"

    def __init__(self, tracking_uri: str | None = None, experiment_name: str | None = None):
        super().__init__()
        self._uri = tracking_uri
        self._experiment = experiment_name
        self._client: Any = None

    def begin(self, run: TrackedRun, run_id: str | None) -> str:
        mlflow = need("mlflow", type(self).__name__, "mlflow")
        self._client = mlflow.MlflowClient(self._uri)
        if run_id is None:
            self._create(run)
        else:
            self._client.update_run(run_id, status="RUNNING")
            self.id = run_id
        self._write_params(run)
        uri = self._client.tracking_uri
        return f"mlflow ui --backend-store-uri {uri}" if "://" not in uri or uri[:4] != "http" else uri

    def _create(self, run: TrackedRun) -> None:
        named = self._experiment or run.project or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_PROJECT
        experiment = self._client.get_experiment_by_name(named)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(named)
        self.id = self._client.create_run(experiment_id, run_name=run.name).info.run_id
        self._client.log_text(self.id, run.config_text, "config.py")

    def _write_params(self, run: TrackedRun) -> None:
        from mlflow.entities import Param

        # A parameter of MLflow is never changed: that of the first start stays.
        known = self._client.get_run(self.id).data.params
        new = iter(
            Param(key[:_MAX_KEY], str(value)[:_MAX_VALUE])
            for key, value in run.config.items()
            if key[:_MAX_KEY] not in known
        )
        while block := list(itertools.islice(new, _PARAMS_IN_CALL)):
            self._client.log_batch(self.id, params=block)

    def write(self, scalars: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.id, metrics=[Metric(n, float(v), now, step) for n, v in scalars.items()])

    def write_samples(self, samples: list[Sample]) -> None:
        columns = {name: [getattr(sample, name) for sample in samples] for name in Sample._fields}
        self._client.log_table(self.id, columns, _TABLE)

    def end(self, error: BaseException | None) -> None:
        if self.id:
            is_stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            failed = "KILLED" if is_stopped else "FAILED"
            self._client.set_terminated(self.id, "FINISHED" if error is None else failed)
