"""What only a GPU can tell: that values there are those of the CPU, and that whole runs are what they are elsewhere.

    pytest -m gpu

needs one CUDA device, and two for NCCL; it prints what was verified and what was not. Runs are processes of their own,
since CUDA that was used here could not be used in a fork.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from splitcom_dist.codec.checksum import checksum, row_checksums
from splitcom_dist.codec.ends import make_decoder, make_encoder
from splitcom_dist.codec.residence import Residence
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.devices import HOST, Lane, staging, to_device, to_host
from splitcom_dist.telemetry.hdf5 import read
from splitcom_dist.telemetry.schema import row_dtype

COUNT = torch.cuda.device_count()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(COUNT == 0, reason="no CUDA device, or none shown: pytest -m gpu")]
needs_two = pytest.mark.skipif(COUNT < 2, reason=f"{COUNT} CUDA devices, 2 needed")
ROOT = Path(__file__).resolve().parents[2]
CODECS = {
    "none": LinkCodecConfig(),
    "fp16": LinkCodecConfig(quantizer="fp16"),
    "int8": LinkCodecConfig(quantizer="int8"),
    "splitcom": LinkCodecConfig(gate="cosine", theta=0.9, quantizer="fp16"),
    "splitcom_int8": LinkCodecConfig(gate="cosine", theta=0.9, quantizer="int8"),
}


def device() -> torch.device:
    return torch.device("cuda", 0)


def run(model: Path, out: Path, *settings: str, code: int = 0) -> str:
    """A run of two clients, a server and an aggregator; what it said on standard error."""
    values = [
        f"model.name={model}",
        "data.train_samples=24",
        "data.validation_samples=6",
        "data.max_length=100",
        "roles.client_ranks=2",
        "fed.clients=3",
        "fed.every=2",
        "train.epochs=2",
        "train.batch_size=4",
        "telemetry.progress=false",
    ]
    outcome = subprocess.run(
        [sys.executable, "-m", "splitcom_dist", "train", *values, *settings, "--out", str(out)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert outcome.returncode == code, outcome.stderr
    return outcome.stderr


def summary(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return told


def assert_alike(one: Path, other: Path, tolerance: float) -> None:
    """The same bytes on every link; adapters and perplexity within a relative tolerance."""
    first, second = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], rtol=tolerance, atol=tolerance * float(tensor.abs().max())), name
    assert summary(one)["ppl"] == pytest.approx(summary(other)["ppl"], rel=tolerance)
    columns = [name for name in row_dtype("traffic").names or () if not name.startswith("t_")]
    rows = [read(folder / "run.h5", "traffic") for folder in (one, other)]
    assert len(rows[0]) and all(np.array_equal(rows[0][name], rows[1][name]) for name in columns)


@pytest.mark.parametrize("payload", ["host", "device"])
@pytest.mark.parametrize("codec", CODECS)
def test_a_codec_on_the_device_makes_the_bytes_that_it_makes_on_the_cpu(codec: str, payload: str) -> None:
    there = Residence(device(), device() if payload == "device" else HOST)
    ends = [
        (
            make_encoder(CODECS[codec], 64, torch.float32, 3, None, residence),
            make_decoder(CODECS[codec], 64, torch.float32, None, residence),
        )
        for residence in (Residence(), there)
    ]
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([5, 9, 2])
    rows = torch.randn(16, 64, generator=generator)
    visit = Visit([4, 1, 7], lengths)
    for drift in (0.0, 0.01, 1.0):
        rows = rows + drift * torch.randn(rows.shape, generator=generator)
        found: list[Sequence[torch.Tensor]] = []
        for (encoder, decoder), where in zip(ends, (HOST, device()), strict=True):
            sections = encoder.encode(rows.to(where), visit).sections
            decoded = decoder.decode(sections, visit)
            assert decoded is not None and decoded.device == where
            assert encoder.store.digest == decoder.store.digest
            found.append([*(sections[name].cpu() for name in sorted(sections)), decoded.cpu()])
        assert all(one.equal(other) for one, other in zip(*found, strict=True)), drift


def test_checksums_are_the_same_on_both() -> None:
    payload = torch.randint(0, 256, (2**20 + 3,), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    assert checksum(payload.to(device())) == checksum(payload)
    scales, symbols = payload[:30], payload[30 : 30 + 15 * 64]
    there = row_checksums(scales.to(device()), symbols.to(device()), [4, 1, 10])
    assert there == row_checksums(scales, symbols, [4, 1, 10])


@pytest.mark.parametrize("codec", ["none", "splitcom_int8"])
def test_a_run_on_the_device_is_the_run_on_the_cpu(codec: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    for where in ("cpu", "cuda"):
        run(model_folders["gpt2"], tmp_path / where, f"codec={codec}", f"runtime.device={where}")
    assert "computes on cuda:0" in (tmp_path / "cuda" / "log" / "rank_00000.log").read_text()
    if codec == "none":
        assert_alike(tmp_path / "cpu", tmp_path / "cuda", 1e-3)
    else:  # a gate may decide otherwise where a cosine is near its threshold
        assert summary(tmp_path / "cuda")["ppl"] == pytest.approx(summary(tmp_path / "cpu")["ppl"], rel=1e-2)


@pytest.mark.parametrize("codec", ["splitcom_int8", "video"])
def test_overlap_on_streams_of_their_own_changes_nothing(
    codec: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    for choice in ("none", "full"):
        parts = ["train.micro_batches=2", f"roles.overlap={choice}", f"codec={codec}", "runtime.device=cuda"]
        run(model_folders["gpt2"], tmp_path / choice, *parts)
    assert_alike(tmp_path / "none", tmp_path / "full", 1e-6)


def test_compiled_codecs_make_the_same_packets(model_folders: dict[str, Path], tmp_path: Path) -> None:
    for choice in ("false", "true"):
        compiled = ["codec=int8", "runtime.device=cuda", f"runtime.compile={choice}"]
        run(model_folders["gpt2"], tmp_path / choice, *compiled)
    assert_alike(tmp_path / "false", tmp_path / "true", 1e-6)


def test_what_goes_between_host_and_device_is_pinned_and_arrives() -> None:
    there = torch.randn(1000, device=device())
    back = to_host(there)
    assert back.is_pinned() and to_device(back, device()).equal(there)
    assert staging(9, device()).is_pinned() and not staging(9, HOST).is_pinned()


def test_what_a_lane_makes_is_seen_by_others_and_what_it_reads_is_whole() -> None:
    lane, values = Lane(device()), torch.zeros(2**24, device=device())
    for _ in range(50):
        values = values + 1  # still under way when the thread begins
    with ThreadPoolExecutor(1) as thread:
        doubled = thread.submit(lane.aside(lambda: values * 2)).result()
    assert (doubled == 100).all()


@pytest.mark.parametrize("codec", ["video", "aqsgd", "tah"])
def test_codecs_of_the_host_serve_ranks_on_the_device(
    codec: str, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    for where in ("cpu", "cuda"):
        run(model_folders["llama_tied"], tmp_path / where, f"codec={codec}", f"runtime.device={where}")
    assert summary(tmp_path / "cuda")["ppl"] == pytest.approx(summary(tmp_path / "cpu")["ppl"], rel=1e-2)


@pytest.mark.skipif(COUNT > 1, reason="every rank has a device of its own")
def test_nccl_on_one_device_is_refused_with_the_mend(model_folders: dict[str, Path], tmp_path: Path) -> None:
    said = run(model_folders["gpt2"], tmp_path / "run", "transport=nccl", code=2)
    assert "rank 0 (client 0,2) and rank 2 (server) share one device" in said and "set transport=tcp" in said


@needs_two
@pytest.mark.parametrize("codec", ["none", "int8", "splitcom_int8"])
@pytest.mark.parametrize("tail_layers", [0, 1])
def test_a_run_over_nccl_is_the_run_over_gloo(
    codec: str, tail_layers: int, model_folders: dict[str, Path], tmp_path: Path
) -> None:
    for transport in ("gloo", "nccl"):
        settings = [f"codec={codec}", f"transport={transport}", f"model.tail_layers={tail_layers}"]
        # Client and server have a device each; the aggregator shares the first.
        settings += ["roles.client_ranks=1", "runtime.device=cuda"]
        run(model_folders["gpt2"], tmp_path / transport, *settings)
    assert_alike(tmp_path / "gloo", tmp_path / "nccl", 1e-6)
