"""Both ends of a link that sends changes stay in step over any history, and its error shrinks from visit to visit."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom_dist.codec.frames import Frames
from splitcom_dist.codec.rivals.delta import DeltaDecoder, DeltaEncoder, delta_bytes, whole_bytes
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.errors import WireError

WIDTH = 12
AQSGD: dict[str, Any] = {"predictor": "delta", "quantizer": "channels", "bits": 4}
SPLITLITE: dict[str, Any] = {"predictor": "delta", "quantizer": "low_rank", "bits": 4, "low_rank": 2}
DIRECT: dict[str, Any] = {"predictor": "none", "quantizer": "channels", "bits": 8}


def ends(width: int = WIDTH, dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[DeltaEncoder, DeltaDecoder]:
    config = LinkCodecConfig(**settings)
    return DeltaEncoder(config, width, dtype, seed=3), DeltaDecoder(config, width, dtype)


def visit(*samples: int, length: int = 5) -> Visit:
    return Visit(list(samples), torch.full((len(samples),), length))


def size(frames: Frames) -> int:
    return sum(len(section) for section in frames.sections.values())


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[list[int], float]]:
    """Visits: distinct samples of a batch, and how far their activations have drifted since the last one."""
    batch = st.lists(st.integers(0, 7), min_size=1, max_size=5, unique=True)
    drift = st.sampled_from([0.0, 0.01, 1.0, 1e6, float("nan"), float("inf")])
    return draw(st.lists(st.tuples(batch, drift), min_size=1, max_size=12))


@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize(
    ("method", "store_dtype"), list(itertools.product((AQSGD, SPLITLITE, DIRECT), ("bfloat16", "float32")))
)
@given(history=histories(), seed=st.integers(0, 999))
def test_stores_stay_equal_over_any_history(
    method: dict[str, Any], store_dtype: str, history: list[tuple[list[int], float]], seed: int
) -> None:
    encoder, decoder = ends(**method, store_dtype=store_dtype)
    generator = torch.Generator().manual_seed(seed)
    lengths_of = {sample: 1 + sample % 4 for sample in range(8)}
    current = {sample: torch.randn(length, WIDTH, generator=generator) for sample, length in lengths_of.items()}
    remembered: set[int] = set()
    for samples, drift in history:
        batch = Visit(samples, torch.tensor([lengths_of[sample] for sample in samples]))
        noise = torch.randn(batch.tokens, WIDTH, generator=generator) * drift
        values = torch.cat([current[sample] for sample in samples]) + noise
        if values.isfinite().all():
            current |= dict(zip(samples, values.split(batch.lengths.tolist()), strict=True))
        frames = encoder.encode(values, batch)
        decoded = decoder.decode(frames.sections, batch)
        assert frames.intra + frames.predicted + frames.cold == batch.tokens == len(decoded)
        assert encoder.store.digest == decoder.store.digest and len(encoder.store) == len(decoder.store)
        limits = decoder.limits(len(samples), batch.tokens)
        assert all(len(frames.sections[name]) <= getattr(limits, name) for name in ("modes", "scales", "symbols"))
        if method is DIRECT:
            assert frames.predicted == 0 and len(decoder.store) == 0
            continue
        if frames.cold:
            assert frames.cold == batch.tokens and not decoded.isfinite().all()
            continue
        known = sum(lengths_of[sample] for sample in samples if sample in remembered)
        assert frames.predicted == known
        remembered |= set(samples)
        assert torch.equal(decoder.recall(batch), decoded), "the receiver computes on what it remembers"
    for sample in range(8):
        assert (sample in encoder.store) == (sample in decoder.store) == (sample in remembered)
        if sample in remembered:
            assert torch.equal(encoder.store.get(sample), decoder.store.get(sample))
            assert decoder.store.get(sample).isfinite().all()


@pytest.mark.parametrize("method", [AQSGD, SPLITLITE, DIRECT])
@pytest.mark.parametrize("section", ["modes", "scales", "symbols"])
@pytest.mark.parametrize("change", ["short", "long"])
@pytest.mark.parametrize("visits", [0, 1])
def test_sections_of_a_wrong_size_leave_the_store_unchanged(
    method: dict[str, Any], section: str, change: str, visits: int
) -> None:
    encoder, decoder = ends(**method)
    values, batch = torch.randn(10, WIDTH), visit(1, 2)
    for _ in range(visits):
        decoder.decode(encoder.encode(values, batch).sections, batch)
    digest, references = decoder.store.digest, [decoder.store.get(s).clone() for s in (1, 2) if s in decoder.store]
    sections = encoder.encode(values + 1, batch).sections
    part = sections[section]
    if change == "short" and not len(part):
        pytest.skip("a first visit has no scales to cut")
    sections[section] = part[:-1] if change == "short" else torch.cat([part, torch.zeros(1, dtype=torch.uint8)])
    with pytest.raises(WireError, match=section):
        decoder.decode(sections, batch)
    assert decoder.store.digest == digest and len(decoder.store) == len(references)
    for sample, reference in zip((1, 2), references, strict=False):
        assert torch.equal(decoder.store.get(sample), reference)


def test_a_change_of_an_unknown_sample_is_an_error_and_changes_nothing() -> None:
    encoder, decoder = ends(**AQSGD)
    encoder.encode(torch.randn(5, WIDTH), visit(7))  # this packet is lost
    frames = encoder.encode(torch.randn(10, WIDTH), visit(8, 7))
    with pytest.raises(WireError, match="sample 7 is sent as a change"):
        decoder.decode(frames.sections, visit(8, 7))
    assert len(decoder.store) == 0 and decoder.store.digest == 0
    with pytest.raises(WireError, match="sample 8"):
        decoder.recall(visit(8))


def test_a_sample_of_another_length_is_sent_whole() -> None:
    encoder, decoder = ends(**AQSGD)
    for length in (5, 6):
        batch = visit(1, length=length)
        frames = encoder.encode(torch.randn(length, WIDTH), batch)
        decoder.decode(frames.sections, batch)
        assert frames.intra == length
    assert encoder.store.digest == decoder.store.digest


@pytest.mark.parametrize("method", [AQSGD, SPLITLITE | {"low_rank": 5, "bits": 8}])
def test_the_error_of_a_fixed_tensor_contracts(method: dict[str, Any]) -> None:
    """At 4 bit each visit leaves of a channel's peak error at most an eighth: m += Q(a - m)."""
    encoder, decoder = ends(**method, store_dtype="float32")
    generator = torch.Generator().manual_seed(0)
    decoder.decode(encoder.encode(torch.randn(5, WIDTH, generator=generator), visit(1)).sections, visit(1))
    values, errors = torch.randn(5, WIDTH, generator=generator), []
    for _ in range(5):
        decoded = decoder.decode(encoder.encode(values, visit(1)).sections, visit(1))
        errors.append(float((decoded - values).abs().max()))
    assert all(after < before / 7 for before, after in itertools.pairwise(errors) if before > 1e-5)
    assert errors[-1] < 1e-3 < errors[0] / 10 or method is not AQSGD


def test_a_fixed_tensor_is_reached_up_to_the_rounding_of_the_store() -> None:
    encoder, decoder = ends(**AQSGD)
    values = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    decoder.decode(encoder.encode(torch.zeros(5, WIDTH), visit(1)).sections, visit(1))
    for _ in range(8):
        decoded = decoder.decode(encoder.encode(values, visit(1)).sections, visit(1))
    # bf16 rounds to 2^-8 of a value; of the largest such error in a channel, a step of an eighth may be left
    assert ((decoded - values).abs() <= 2**-8 * (values.abs() + values.abs().amax(0) / 6)).all()


@pytest.mark.parametrize("method", [AQSGD, SPLITLITE])
def test_massive_activations_survive(method: dict[str, Any]) -> None:
    """One channel of 1e5 overflows FP16; it neither saturates nor drowns the other channels."""
    encoder, decoder = ends(**method)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, WIDTH, generator=generator)
    values[:, 3] += 1e5
    for _ in range(4):
        decoded = decoder.decode(encoder.encode(values, visit(1)).sections, visit(1))
        assert torch.allclose(decoded, values, rtol=2**-7, atol=5e-3 if method is AQSGD else 600)
        values = values + 0.01 * torch.randn(5, WIDTH, generator=generator) * (torch.arange(WIDTH) != 3)
    if method is AQSGD:
        others = torch.arange(WIDTH) != 3
        assert (decoded - values)[:, others].norm() < 0.05 * values[:, others].norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_first_visit_is_16_bit_an_element_and_later_ones_are_the_papers(dtype: torch.dtype) -> None:
    encoder, decoder = ends(width=64, dtype=dtype, **AQSGD)
    batch = Visit([4, 9, 2], torch.tensor([20, 1, 33]))
    lengths, values = batch.lengths.tolist(), torch.randn(54, 64).to(dtype)
    first = encoder.encode(values, batch)
    assert size(first) == whole_bytes(lengths, 64) == 1 + 2 * 54 * 64
    assert (first.intra, first.predicted, first.cold) == (54, 0, 0)
    assert torch.equal(decoder.decode(first.sections, batch), values.bfloat16().to(dtype))
    second = encoder.encode(values + 1, batch)
    assert size(second) == delta_bytes(encoder_config(AQSGD), lengths, 64) == 1 + 54 * 64 * 4 // 8 + 3 * 2 * 64
    assert (second.intra, second.predicted, second.cold) == (0, 54, 0)
    assert decoder.decode(second.sections, batch).dtype == dtype


def test_gradients_cross_directly_and_are_not_remembered() -> None:
    encoder, decoder = ends(**DIRECT)
    values = 1e-9 * torch.randn(10, WIDTH)  # FP16 would flush these to nothing
    for _ in range(2):
        frames = encoder.encode(values, visit(1, 2))
        assert (frames.intra, frames.predicted) == (10, 0)
        assert size(frames) == delta_bytes(encoder_config(DIRECT), [5, 5], WIDTH) == 1 + 10 * WIDTH + 2 * 2 * WIDTH
        assert torch.allclose(decoder.decode(frames.sections, visit(1, 2)), values, atol=3e-11)
    assert len(encoder.store) == len(decoder.store) == 0


def test_a_sample_that_is_not_finite_crosses_raw_and_leaves_the_reference() -> None:
    encoder, decoder = ends(**AQSGD)
    values = torch.randn(5, WIDTH)
    decoder.decode(encoder.encode(values, visit(1)).sections, visit(1))
    broken = values.clone()
    broken[2, 3], broken[4, 0] = torch.nan, -torch.inf
    frames = encoder.encode(broken, visit(1))
    assert (frames.cold, frames.intra, frames.predicted) == (5, 0, 0)
    assert torch.equal(decoder.decode(frames.sections, visit(1)).nan_to_num(7), broken.bfloat16().float().nan_to_num(7))
    frames = encoder.encode(values, visit(1))
    assert frames.predicted == 5
    assert torch.allclose(decoder.decode(frames.sections, visit(1)), values, rtol=2**-7)
    assert encoder.store.digest == decoder.store.digest


def test_draws_come_from_the_seed_alone() -> None:
    batch, packets = visit(1), []
    for _ in range(2):
        encoder, _ = ends(**SPLITLITE)
        generator = torch.Generator().manual_seed(5)
        for _ in range(2):
            frames = encoder.encode(torch.randn(5, WIDTH, generator=generator), batch)
        packets.append(frames.sections["symbols"])
        torch.rand(3)  # the global generator moves on
    assert torch.equal(*packets)


def encoder_config(method: dict[str, Any]) -> LinkCodecConfig:
    return LinkCodecConfig(**method)
