"""Logs of a run that never was: samples whose values move in ways that are known."""

from pathlib import Path

import numpy as np

from splitcom_dist.telemetry.hdf5 import RankLog
from splitcom_dist.telemetry.schema import TABLES

CONFIG = """
model: {{cut_layer: {cut}}}
train: {{epochs: {epochs}}}
"""


def write_drift(
    root: Path, values: np.ndarray, *, link: int = 0, clients: int = 2, cut: int = 2, change: float = 0.1
) -> Path:
    """The run directory of one client rank that sent samples with these values (samples, epochs, k) on a link.

    Every sample has 10 positions, of which the last of each client's shard share 4; `change` is every relative L2.
    """
    samples, epochs, k = values.shape
    root.mkdir()
    (root / "telemetry").mkdir()
    columns = [column for column in TABLES["sketch"] if column.dtype[0] == "f"]
    text = CONFIG.format(cut=cut, epochs=epochs)
    with RankLog(root / "telemetry" / "rank_00000.h5", rank=0, role="client", config=text, sketch=k) as log:
        for epoch in range(epochs):
            for sample in range(samples):
                told: dict[str, object] = dict.fromkeys(
                    [column.name for column in columns], change if epoch else np.nan
                )
                norm = float(np.linalg.norm(values[sample, epoch]))
                shared = 4 if sample >= samples - clients else 0
                told |= {
                    "norm": norm,
                    "values": values[sample, epoch] / norm,
                    "energy_first": 0.5,
                    "energy_massive": 0.25,
                }
                told |= {"rel_l2_position": [change if epoch and band < 5 else np.nan for band in range(12)]}
                told |= {"cosine": 0.99 if epoch else np.nan, "rel_l2_source": 2 * told["rel_l2_source"]}  # type: ignore[operator]
                log.append(
                    "sketch",
                    step=epoch * samples + sample,
                    epoch=epoch,
                    client=sample % clients,
                    link=link,
                    sample=sample,
                    tokens=10,
                    target_start=6,
                    shared=shared,
                    **told,
                )
    return root
