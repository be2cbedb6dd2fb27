"""Logging sketches changes nothing: the same adapters, the same bytes on every link; and every visit has its row."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from test_runs import CLIENTS, EPOCHS, SAMPLES, train

from splitcom_dist.links import LINKS, links_of
from splitcom_dist.telemetry.hdf5 import read, sketch_length

CASES = {
    "none": ["codec=none"],
    "parked": ["codec=splitcom_all_int8", "fed.resident=1", "roles.client_ranks=1"],
    "u_video": ["codec=video", "shape=u_shape"],
    "bfloat16": ["codec=splitcom", "model.dtype=bfloat16"],
}


def same_but_for_sketches(one: Path, other: Path) -> None:
    adapters = [load_file(out / "adapter" / "adapter_model.safetensors") for out in (one, other)]
    assert all(
        np.array_equal(adapters[0][name].float(), adapters[1][name].float()) for name in adapters[0] | adapters[1]
    )
    for table in ("traffic", "similarity", "eval", "train"):
        rows = [read(out / "run.h5", table) for out in (one, other)]
        kept = [name for name in rows[0].dtype.names or () if not name.startswith("t_")]
        kept = [name for name in kept if name not in ("seconds", "wait")]
        assert repr(rows[0][kept].tolist()) == repr(rows[1][kept].tolist()), table  # as text: NaN is NaN


@pytest.mark.parametrize(
    "case", [name if name == "none" else pytest.param(name, marks=pytest.mark.long) for name in CASES]
)
def test_sketches_change_no_bit_of_training_or_of_the_wire(
    case: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    for k in (0, 32):
        done = train(model_folders["gpt2"], tmp_path / str(k), *CASES[case], f"telemetry.sketch={k}")
        assert done.code == 0, done.stderr
    same_but_for_sketches(tmp_path / "0", tmp_path / "32")
    assert len(read(tmp_path / "0" / "run.h5", "sketch")) == 0 == sketch_length(tmp_path / "0" / "run.h5")
    rows = read(tmp_path / "32" / "run.h5", "sketch")
    assert sketch_length(tmp_path / "32" / "run.h5") == 32
    for link in links_of(1 if "shape=u_shape" in CASES[case] else 0):
        of_link = rows[rows["link"] == LINKS.index(link)]
        visits = {(row["epoch"], row["client"], row["sample"]) for row in of_link}
        assert len(of_link) == len(visits) == EPOCHS * SAMPLES, link
        assert set(of_link["client"]) == set(range(CLIENTS))
        assert np.isnan(of_link["cosine"][of_link["epoch"] == 0]).all()
        assert not np.isnan(of_link["cosine"][of_link["epoch"] > 0]).any()
        knows_text, has_labels = link.startswith("up"), link.startswith("up") or "shape=u_shape" not in CASES[case]
        assert ((of_link["shared"] >= 0) == knows_text).all()
        assert ((of_link["target_start"] >= 0) == has_labels).all()
