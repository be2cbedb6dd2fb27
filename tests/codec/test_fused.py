"""Compiled codecs make the packets of those that are not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_command
from safetensors.torch import load_file
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from splitcom_dist.codec.fused import fused
from splitcom_dist.codec.gated.ends import GatedDecoder, GatedEncoder
from splitcom_dist.codec.gated.sketch import token_measures
from splitcom_dist.codec.quantize import Int8
from splitcom_dist.codec.residence import Residence
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.devices import HOST
from splitcom_dist.errors import UserError
from splitcom_dist.telemetry.hdf5 import read

WIDTH = 24
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++ here, with which torch.compile builds kernels"
)


def rows_of(count: int, dtype: torch.dtype, seed: int) -> Tensor:
    """With zeros, values of many sizes and ties between two symbols, as far as there are rows for them."""
    rows = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    rows[1::5] = 0
    rows[2::5] *= 1e6
    rows[3::5] = torch.arange(WIDTH) + 0.5
    return rows.to(dtype)


@needs_compiler
@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_symbols_scales_and_rows_are_the_same_to_the_bit(dtype: torch.dtype) -> None:
    plain, compiled = Int8(dtype), Int8(dtype, fused=True)
    for count in (64, 7, 2, 1, 0, 33):
        rows = rows_of(count, dtype, count)
        scales, symbols = compiled.encode(rows)
        assert [scales.tolist(), symbols.tolist()] == [each.tolist() for each in plain.encode(rows)]
        back = compiled.decode(scales, symbols, count, WIDTH)
        assert back.dtype == dtype and back.equal(plain.decode(scales, symbols, count, WIDTH))


@needs_compiler
@pytest.mark.long
def test_measures_are_the_same_up_to_rounding() -> None:
    now, reference = (rows_of(50, torch.float32, seed) for seed in (1, 2))
    for found, expected in zip(fused(token_measures)(now, reference), token_measures(now, reference), strict=True):
        assert found.dtype == expected.dtype and torch.allclose(found, expected, rtol=1e-5, atol=0)


@needs_compiler
@pytest.mark.long
def test_a_compiled_end_fits_one_that_is_not() -> None:
    """Compiling is each rank's own affair: no flag of it crosses."""
    config = LinkCodecConfig(gate="cosine", theta=0.9, quantizer="int8")
    ends = [
        (GatedEncoder(config, WIDTH, torch.float32, 3, there), GatedDecoder(config, WIDTH, torch.float32, here))
        for there, here in ((Residence(), Residence()), (Residence(fused=True), Residence(HOST, HOST, fused=True)))
    ]
    visit, rows = Visit([4, 1, 7], torch.tensor([5, 9, 2])), rows_of(16, torch.float32, 0)
    for drift in (0.0, 0.01, 1.0):
        rows = rows + drift * rows_of(16, torch.float32, 5)
        (plain, _), (compiled, _) = ends
        frames = [encoder.encode(rows, visit) for encoder in (plain, compiled)]
        assert all(torch.equal(frames[0].sections[name], frames[1].sections[name]) for name in frames[0].sections)
        decoded = [decoder.decode(frames[0].sections, visit) for _, decoder in ends]
        assert decoded[0] is not None and decoded[1] is not None and decoded[0].equal(decoded[1])
        assert len({end.store.digest for pair in ends for end in pair}) == 1


@needs_compiler
@pytest.mark.long
def test_a_run_that_compiles_is_the_run_that_does_not(model_folders: dict[str, Path], tmp_path: Path) -> None:
    fixed = [f"model.name={model_folders['gpt2']}", "data.train_samples=12", "data.validation_samples=4"]
    fixed += [
        "codec=splitcom_all_int8",
        "train.epochs=3",
        "train.batch_size=4",
        "roles.client_ranks=1",
        "fed.clients=1",
    ]
    for choice in ("false", "true"):
        out = tmp_path / choice
        outcome = run_command(["train", *fixed, f"runtime.compile={choice}", "--out", str(out)], timeout=200)
        assert outcome.code == 0, outcome.stderr
    one, other = (
        load_file(tmp_path / choice / "adapter" / "adapter_model.safetensors") for choice in ("false", "true")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows = [read(tmp_path / choice / "run.h5", "traffic") for choice in ("false", "true")]
    columns = [name for name in rows[0].dtype.names or () if not name.startswith("t_")]
    assert len(rows[0]) and all(np.array_equal(rows[0][name], rows[1][name]) for name in columns)


def test_where_torch_cannot_compile_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> object:
        def call(rows: Tensor) -> Tensor:
            raise TorchDynamoException("InvalidCxxCompiler:\n no compiler")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(UserError, match=r"^runtime\.compile: .*no compiler\): set it to false$"):
        fused(torch.relu)(torch.ones(3))
