"""Curves for TensorBoard, Weights & Biases and MLflow, written from a run's logs: training knows nothing of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from splitcom_dist.errors import UserError
from splitcom_dist.links import LINKS
from splitcom_dist.telemetry.schema import row_dtype
from splitcom_dist.watch.picture import Picture


class Writer(Protocol):
    """Where figures go. Steps come in ascending order."""

    def write(self, step: int, figures: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


PACKAGES = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow"}


def open_writers(names: Sequence[str], picture: Picture) -> list[Writer]:
    """Writers by name. UserError for an unknown one, one whose package is missing, or that cannot be opened."""
    writers: list[Writer] = []
    for name, package in packages_of(names).items():
        try:
            writers.append(_open(name, package, picture))
        except Exception as error:  # what a server, a store or a login had to say
            raise UserError(f"writer {name}: {' '.join(str(error).split())[:200]}") from None
    return writers


def packages_of(names: Sequence[str]) -> dict[str, Any]:
    """The imported packages by writer. UserError as above."""
    found = {}
    for name in names:
        if name not in PACKAGES:
            raise UserError(f"writer {name}: known are {', '.join(PACKAGES)}")
        try:
            found[name] = import_module(PACKAGES[name])
        except ModuleNotFoundError as error:
            if error.name != PACKAGES[name]:
                raise
            raise UserError(f"writer {name} needs {error.name}: pip install 'splitcom-dist[{name}]'") from None
    return found


def _open(name: str, package: Any, picture: Picture) -> Writer:
    root, config = picture.root, dataclasses.asdict(picture.config)
    if name == "tensorboard":
        return TensorBoard(package, root / "tensorboard")
    if name == "wandb":
        return WeightsAndBiases(package, str(root), root.absolute().name, config)
    return MLflow(package, root.absolute().name, config)


class TensorBoard:
    """Event files in `folder`; those of an earlier look at the run are replaced, since all is written again."""

    def __init__(self, package: Any, folder: Any) -> None:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = package.SummaryWriter(str(folder), flush_secs=10)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of the project splitcom; WANDB_MODE=offline and the like are heard."""

    def __init__(self, package: Any, folder: str, name: str, config: Mapping[str, Any]) -> None:
        self._run = package.init(project="splitcom", dir=folder, name=name, config=config)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of the experiment splitcom, where MLFLOW_TRACKING_URI says."""

    def __init__(self, package: Any, name: str, config: Mapping[str, Any]) -> None:
        self._package = package
        package.set_experiment("splitcom")
        self._run_id = package.start_run(run_name=name).info.run_id
        package.log_dict(dict(config), "config.yaml")

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        self._package.log_metrics(dict(figures), step=step, run_id=self._run_id)

    def close(self) -> None:
        self._package.end_run()


class Curves:
    """Gives writers what a picture's polls have brought: each step's loss, and at evaluations quality and bytes."""

    def __init__(self, picture: Picture, writers: Sequence[Writer]) -> None:
        self._picture, self._writers = picture, writers
        self._begin()
        if writers:
            picture.also_read("traffic")

    def _begin(self) -> None:
        self._next_step, self._evaluated = 0, 0
        self._sent: list[np.ndarray] = []  # rows of packets, where they were sent

    def draw(self) -> None:
        """Write what is new. Bytes are those of all ranks up to an evaluation, for which all have flushed theirs."""
        picture = self._picture
        if not self._writers:
            return
        if picture.began_anew:
            self._begin()
        for rows in picture.news.values():
            if rows:
                self._sent.append(rows["traffic"][rows["traffic"]["side"] == 0])
        waiting: dict[int, dict[str, float]] = {}
        for step in range(self._next_step, len(picture.losses)):
            if np.isfinite(picture.losses[step]):
                waiting.setdefault(step, {})["train/loss"] = picture.losses[step]
        self._next_step = len(picture.losses)
        for step, epoch, ppl in picture.evals[self._evaluated :]:
            waiting.setdefault(max(0, step), {}).update(self._evaluation(step, epoch, ppl))
        self._evaluated = len(picture.evals)
        for step, figures in sorted(waiting.items()):
            for writer in self._writers:
                writer.write(step, figures)

    def _evaluation(self, step: int, epoch: int, ppl: float) -> dict[str, float]:
        figures = {"eval/perplexity": ppl, "eval/loss": float(np.log(ppl)), "epoch": epoch + 1.0}
        for link, (theta, _, _) in self._picture.thresholds.items():
            figures[f"threshold/{LINKS[link]}"] = theta
        rows = np.concatenate([np.zeros(0, row_dtype("traffic")), *self._sent])
        for code, name in enumerate(LINKS):
            mine = rows[(rows["link"] == code) & (rows["step"] <= step)]
            if padded := int(mine["raw_padded"].sum()):
                figures[f"bytes/{name}"] = float(mine["wire"].sum())
                figures[f"share of padded baseline/{name}"] = float(mine["wire"].sum()) / padded
        return figures

    def close(self) -> None:
        """Every writer."""
        for writer in self._writers:
            writer.close()
