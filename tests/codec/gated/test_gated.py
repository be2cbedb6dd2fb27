"""Encoder and decoder stay in step over any order of visits, and SplitCom's rule is the paper's."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitcom_dist.codec.frames import Frames
from splitcom_dist.codec.gated.ends import GatedDecoder, GatedEncoder
from splitcom_dist.codec.gated.gate import Drift, Similarity
from splitcom_dist.codec.gated.sketch import projection
from splitcom_dist.codec.ragged import row_mask
from splitcom_dist.codec.residence import ON_HOST, Residence
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.errors import WireError

WIDTH = 12
GATES = ("always", "once", "cosine")


class OnDevice(Residence):
    """As on a device whose payloads cross from there, but in host memory."""

    apart = True


def ends(residence: Residence = ON_HOST, **settings: object) -> tuple[GatedEncoder, GatedDecoder]:
    config = LinkCodecConfig(**settings)  # type: ignore[arg-type]
    encoder = GatedEncoder(config, WIDTH, torch.float32, seed=3, residence=residence)
    return encoder, GatedDecoder(config, WIDTH, torch.float32, residence)


def encode(encoder: GatedEncoder, values: Tensor | None, samples: list[int], lengths: Tensor) -> Frames:
    return encoder.encode(values, Visit(samples, lengths))


def decode(decoder: GatedDecoder, frames: Frames, samples: list[int], lengths: Tensor) -> Tensor:
    rows = decoder.decode(frames.sections, Visit(samples, lengths))
    assert rows is not None
    return rows


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[list[int], float]]:
    """Visits: distinct samples of a batch, and how far their activations have drifted since the last one."""
    batch = st.lists(st.integers(0, 7), min_size=1, max_size=5, unique=True)
    return draw(st.lists(st.tuples(batch, st.sampled_from([0.0, 0.01, 0.1, 1.0])), min_size=1, max_size=12))


@settings(max_examples=60)
@pytest.mark.parametrize(
    ("gate", "quantizer", "store_dtype"),
    list(itertools.product(GATES, ("none", "fp16", "int8"), ("bfloat16", "float32"))),
)
@given(
    history=histories(),
    theta=st.sampled_from([-1.0, 0.5, 0.98, 0.9999, 1.0]),
    seed=st.integers(0, 999),
    residence=st.sampled_from([ON_HOST, OnDevice()]),
)
def test_stores_stay_equal_over_any_history(
    gate: str,
    quantizer: str,
    store_dtype: str,
    history: list[tuple[list[int], float]],
    theta: float,
    seed: int,
    residence: Residence,
) -> None:
    encoder, decoder = ends(residence, gate=gate, quantizer=quantizer, store_dtype=store_dtype, theta=theta)
    generator = torch.Generator().manual_seed(seed)
    lengths_of = {sample: 1 + sample % 4 for sample in range(8)}
    current = {sample: torch.randn(length, WIDTH, generator=generator) for sample, length in lengths_of.items()}
    references: dict[int, Tensor] = {}
    for samples, drift in history:
        for sample in samples:
            current[sample] += drift * torch.randn(current[sample].shape, generator=generator)
        lengths = torch.tensor([lengths_of[sample] for sample in samples])
        values = torch.cat([current[sample] for sample in samples])
        frames = encode(encoder, values, samples, lengths)
        decoded = decode(decoder, frames, samples, lengths)
        assert frames.intra + frames.skipped == int(lengths.sum()) == len(decoded)
        assert encoder.store.digest == decoder.store.digest
        if frames.sent is not None:
            sent = row_mask(frames.sent, lengths)
            quantized = encoder.quantizer.decode(*encoder.quantizer.encode(values[sent]), int(sent.sum()), WIDTH)
            assert torch.equal(decoded[sent], quantized)
            fresh = [sample for sample, is_sent in zip(samples, frames.sent.tolist(), strict=True) if is_sent]
            rows = quantized.to(getattr(torch, store_dtype)).split(lengths[frames.sent].tolist())
            references |= dict(zip(fresh, rows, strict=True))
    for sample in range(8):
        assert (sample in encoder.store) == (sample in decoder.store) == (sample in references)
        if sample in references:
            assert torch.equal(decoder.store.get(sample), references[sample])
        if sample in references and gate == "cosine":
            sketch = references[sample].float() @ projection(64, WIDTH, seed=3)
            assert torch.allclose(encoder.store.get(sample), sketch, rtol=1e-4, atol=1e-4)


def test_a_skipped_sample_is_decoded_to_its_stale_reference() -> None:
    encoder, decoder = ends(gate="cosine", theta=0.9, store_dtype="float32")
    first = torch.randn(5, WIDTH)
    lengths = torch.tensor([5])
    decode(decoder, encode(encoder, first, [4], lengths), [4], lengths)
    frames = encode(encoder, first * 1.01, [4], lengths)
    assert frames.skipped == 5 and len(frames.sections["symbols"]) == 0
    assert torch.equal(decode(decoder, frames, [4], lengths), first)


def test_cosine_gate_skips_above_theta_and_sends_below() -> None:
    first, orthogonal = torch.zeros(2, 1, WIDTH)
    first[0, 0], orthogonal[0, 1] = 1, 1
    for theta, sent in ((0.5, True), (-0.9, False)):
        encoder, _ = ends(gate="cosine", theta=theta, sketch_rows=4096)
        encode(encoder, first, [0], torch.tensor([1]))
        frames = encode(encoder, orthogonal, [0], torch.tensor([1]))
        assert frames.similarity is not None and abs(float(frames.similarity.cosine)) < 0.1
        assert (frames.intra == 1) is sent


def test_caches_change_on_upload_only() -> None:
    """Many small drifts, each below the gate, must add up against the last upload and be sent in the end."""
    encoder, _ = ends(gate="cosine", theta=0.98, sketch_rows=1024)
    angle, sent = 0.0, []
    for _ in range(12):
        values = torch.zeros(1, WIDTH)
        values[0, 0], values[0, 1] = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
        sent.append(encode(encoder, values, [0], torch.tensor([1])).intra == 1)
        angle += 0.05  # cos 0.05 = 0.9988, far above theta; cos 0.25 = 0.969 is below
    assert sent[0] and 1 <= sum(sent[1:]) <= 4


def test_similarity_measures_relative_change() -> None:
    encoder, _ = ends(gate="cosine", theta=1.0, sketch_rows=2048, store_dtype="float32")
    values = torch.randn(50, WIDTH)
    encode(encoder, values, [1], torch.tensor([50]))
    frames = encode(encoder, values * 0.8, [1], torch.tensor([50]))
    assert frames.similarity is not None
    assert torch.allclose(frames.similarity.relative_l2, torch.full((4, 1), 0.25), atol=1e-3)
    assert float(frames.similarity.cosine) == pytest.approx(1, abs=1e-6)


def test_once_needs_no_values_for_samples_it_has_sent() -> None:
    encoder, decoder = ends(gate="once", quantizer="fp16", store_dtype="float32")
    values, lengths = torch.randn(4, WIDTH), torch.tensor([1, 3])
    assert encoder.needs_values(Visit([0, 1], lengths))
    first = decode(decoder, encode(encoder, values, [0, 1], lengths), [0, 1], lengths)
    assert not encoder.needs_values(Visit([1, 0], lengths))
    again = encode(encoder, None, [0, 1], lengths)
    assert again.skipped == 4 and torch.equal(decode(decoder, again, [0, 1], lengths), first)


@pytest.mark.parametrize("section", ["modes", "scales", "symbols"])
@pytest.mark.parametrize("change", ["short", "long"])
@pytest.mark.parametrize("gate", GATES)
def test_sections_of_a_wrong_size_leave_the_store_unchanged(section: str, change: str, gate: str) -> None:
    encoder, decoder = ends(gate=gate, quantizer="int8")
    frames = encode(encoder, torch.randn(6, WIDTH), [1, 2], torch.tensor([4, 2]))
    sections = dict(frames.sections)
    if gate == "always" and section == "modes":
        pytest.skip("a gate that always sends has no mode map; the header check refuses one")
    part = sections[section]
    sections[section] = part[:-1] if change == "short" else torch.cat([part, part[:1]])
    with pytest.raises(WireError, match=section):
        decoder.decode(sections, Visit([1, 2], torch.tensor([4, 2])))
    assert len(decoder.store) == 0 and decoder.store.digest == 0


def test_skipping_an_unknown_sample_is_an_error_and_changes_nothing() -> None:
    encoder, decoder = ends(gate="cosine", theta=-1.0)
    values, lengths = torch.randn(3, WIDTH), torch.tensor([3])
    encode(encoder, values, [7], lengths)  # this packet is lost
    frames = encode(encoder, torch.cat([values, values]), [7, 8], torch.tensor([3, 3]))
    with pytest.raises(WireError, match="sample 7 is skipped"):
        decode(decoder, frames, [7, 8], torch.tensor([3, 3]))
    assert len(decoder.store) == 0


def test_rescaling_restores_the_length_of_every_skipped_token() -> None:
    """A cosine does not see norms; a gradient that has faded to a tenth must not come back at its old size."""
    encoder, decoder = ends(gate="cosine", theta=0.9, rescale=True, store_dtype="float32")
    first, lengths = torch.randn(7, WIDTH), torch.tensor([4, 3])
    decode(decoder, encode(encoder, first, [1, 2], lengths), [1, 2], lengths)
    factors = torch.tensor([0.5, 2.0, 1.0, 0.25, 0.125, 0.125, 0.125])
    frames = encode(encoder, first * factors[:, None], [1, 2], lengths)
    assert frames.skipped == 7 and len(frames.sections["modes"]) == 1 + 2 * 7
    assert torch.allclose(decode(decoder, frames, [1, 2], lengths), first * factors[:, None], rtol=2**-8)
    again = encode(encoder, first, [1, 2], lengths)
    assert torch.allclose(decode(decoder, again, [1, 2], lengths), first, rtol=2**-8), (
        "the reference itself is not scaled"
    )


def test_rescaling_is_nearer_than_the_reference_itself() -> None:
    errors = {}
    for rescale in (False, True):
        encoder, decoder = ends(gate="cosine", theta=-1.0, rescale=rescale, sketch_rows=4096, store_dtype="float32")
        generator = torch.Generator().manual_seed(0)
        first, lengths = torch.randn(200, WIDTH, generator=generator), torch.tensor([200])
        decode(decoder, encode(encoder, first, [0], lengths), [0], lengths)
        now = 0.3 * first + 0.1 * torch.randn(200, WIDTH, generator=generator)
        errors[rescale] = float(
            (decode(decoder, encode(encoder, now, [0], lengths), [0], lengths) - now).norm() / now.norm()
        )
    assert errors[True] < 0.35 < 2.0 < errors[False], (
        "0.1 / sqrt(0.1^2 + 0.3^2) = 0.32, against more than twice the norm"
    )


@pytest.mark.parametrize("change", ["short", "long"])
def test_gains_of_a_wrong_size_leave_the_store_unchanged(change: str) -> None:
    encoder, decoder = ends(gate="cosine", theta=-1.0, rescale=True)
    values, lengths = torch.randn(3, WIDTH), torch.tensor([3])
    decode(decoder, encode(encoder, values, [7], lengths), [7], lengths)
    digest = decoder.store.digest
    sections = encode(encoder, values, [7], lengths).sections
    part = sections["modes"]
    sections["modes"] = part[:-1] if change == "short" else torch.cat([part, part[:1]])
    with pytest.raises(WireError, match="gains"):
        decoder.decode(sections, Visit([7], lengths))
    assert decoder.store.digest == digest


def test_drift_is_the_error_gained_a_visit() -> None:
    drift = Drift()
    cosine = torch.tensor([1 - 0.3**2 / 2, torch.nan])  # relative error 0.3; the second sample is new
    similarity = Similarity(cosine, torch.zeros(4, 2))
    drift.observe([7, 8], similarity, torch.tensor([False, True]))
    assert drift.take() == pytest.approx((0.3, 1), rel=1e-3)
    drift.observe([7, 8], similarity, torch.tensor([True, True]))
    assert drift.take() == pytest.approx((0.15, 1), rel=1e-3), "the same error after two visits is half of it a visit"
    drift.observe([7], Similarity(cosine[:1], torch.zeros(4, 1)), torch.tensor([True]))
    assert drift.take() == pytest.approx((0.3, 1), rel=1e-3), "and starts again once it was sent"
    assert drift.take() == (0.0, 0)
