"""Clients that are cut at different depths, served in one step: the oracle of exactness holds, and so do the books."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_command
from safetensors.torch import load_file
from test_exactness import assert_same_run, settings
from test_predict import predicted
from test_runs import check_books

from splitcom_dist.config_files import load_config
from splitcom_dist.dry_run import _adapter_elements
from splitcom_dist.predict import predict_adapters
from splitcom_dist.telemetry.hdf5 import read

SHAPES: dict[str, tuple[int, list[str]]] = {  # by name, tail layers and what else is set
    "three ranks": (0, ["fed.cut_layers=[1,2,3]"]),
    "deep first": (0, ["fed.cut_layers=[3,1,3]", "roles.client_ranks=2"]),
    "two servers": (0, ["fed.cut_layers=[3,2,1]", "roles.server_ranks=2"]),
    "parked": (0, ["fed.cut_layers=[2,3,1]", "roles.client_ranks=1", "fed.resident=1"]),
    "u_shape": (1, ["fed.cut_layers=[1,2,1]", "roles.client_ranks=2"]),
    "u_shape, two servers": (1, ["fed.cut_layers=[2,1,1]", "roles.server_ranks=2"]),
}
FAST = ("gpt2", "three ranks"), ("llama", "deep first"), ("llama", "u_shape")


def run(out: Path, overrides: list[str], **more: Any) -> None:
    outcome = run_command(["train", *overrides, "--out", str(out)], **more)
    assert outcome.code == 0, outcome.stderr


@pytest.mark.parametrize(
    ("family", "shape"),
    [
        pytest.param(family, shape, marks=[] if (family, shape) in FAST else pytest.mark.long)
        for family in ("gpt2", "llama")
        for shape in SHAPES
    ],
)
def test_mixed_cuts_equal_one_process_and_equal_cuts(
    family: str, shape: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    """Plain SGD, averaging in every step: who trains a block makes no difference."""
    tail, extra = SHAPES[shape]
    equal = settings(model_folders[family], 3, 1, "sgd", tail)
    run(tmp_path / "equal", equal)
    run(tmp_path / "mixed", [*equal, *extra])
    assert_same_run(tmp_path / "mixed", load_config([], [*equal, *extra]))
    one, other = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("equal", "mixed"))
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] - other[name]).norm() <= 1e-5 * one[name].norm(), name
    ppl = [json.loads((tmp_path / name / "summary.json").read_text())["ppl"] for name in ("equal", "mixed")]
    assert ppl[1] == pytest.approx(ppl[0], rel=1e-5)
