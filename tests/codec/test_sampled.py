"""Gradients by few bits and few tokens: right in expectation, and silent about what is exactly zero."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitcom_dist.codec.sampled import SampledDecoder, SampledEncoder, keep_probabilities
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config import LinkCodecConfig
from splitcom_dist.errors import WireError

WIDTH = 32


def ends(bits: int = 4, keep: float = 1.0, seed: int = 0) -> tuple[SampledEncoder, SampledDecoder]:
    config = LinkCodecConfig(gate="sampled", bits=bits, keep=keep)
    return SampledEncoder(config, WIDTH, torch.float32, seed), SampledDecoder(config, WIDTH, torch.float32)


def gradients(rows: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, WIDTH, generator=generator) * torch.logspace(-3, 0, rows).unsqueeze(1)


def visit_of(rows: int) -> Visit:
    return Visit([3, 5], torch.tensor([rows - 4, 4]))


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
@pytest.mark.parametrize("keep", [1.0, 0.5, 0.2])
def test_the_mean_over_many_draws_is_the_gradient(bits: int, keep: float) -> None:
    values, draws = gradients(), 3000
    encoder, decoder = ends(bits, keep)
    visit = visit_of(len(values))
    decoded = torch.stack([decoder.decode(encoder.encode(values, visit).sections, visit) for _ in range(draws)])
    spread = decoded.std(dim=0) / draws**0.5
    outliers = ((decoded.mean(dim=0) - values).abs() > 4 * spread + 1e-6 * values.abs()).float().mean()
    assert float(outliers) < 0.005, "beyond four standard errors: 6e-5 of normal values"


@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_as_many_tokens_are_sent_as_asked_and_heavy_ones_first(keep: float) -> None:
    values = gradients(200)
    encoder, _ = ends(4, keep)
    counts = [encoder.encode(values, visit_of(200)).intra for _ in range(50)]
    assert sum(counts) / 50 == pytest.approx(keep * 200, rel=0.05)
    probability = keep_probabilities(values.norm(dim=1), keep)
    assert float(probability[-1]) == 1.0 and float(probability[0]) < 0.1 * keep
    uniform = (values.square().sum(dim=1) * (1 / keep - 1)).sum()
    ours = (values.square().sum(dim=1) * (1 / probability - 1)).sum()
    assert float(ours) < 0.3 * float(uniform), "the variance of uniform sampling"


@given(sizes=st.lists(st.floats(0, 1e6), min_size=0, max_size=40), keep=st.floats(0.01, 1))
def test_probabilities_are_proportional_and_spend_the_budget(sizes: list[float], keep: float) -> None:
    size = torch.tensor(sizes)
    probability = keep_probabilities(size, keep)
    positive = int((size > 0).sum())
    assert bool((probability[size == 0] == 0).all()) and bool(((probability >= 0) & (probability <= 1)).all())
    assert float(probability.sum()) == pytest.approx(keep * positive, rel=1e-3, abs=1e-3)
    free = (probability < 1) & (size > 1e-30)
    ratio = probability[free] / size[free]
    assert not len(ratio) or float(ratio.max() / ratio.min().clamp_min(1e-38)) < 1.01


def test_zero_gradients_cost_nothing() -> None:
    encoder, decoder = ends()
    values = gradients()
    values[:12] = 0
    frames = encoder.encode(values, visit_of(24))
    assert (frames.intra, frames.skipped) == (12, 12)
    assert not bool(decoder.decode(frames.sections, visit_of(24))[:12].any())
    nothing = encoder.encode(torch.zeros(24, WIDTH), visit_of(24))
    assert nothing.intra == 0 and sum(map(len, nothing.sections.values())) <= 4


def test_eight_bits_are_near_and_two_bits_are_small() -> None:
    values, size = gradients(200), {}
    for bits in (2, 4, 8):
        encoder, decoder = ends(bits)
        frames = encoder.encode(values, visit_of(200))
        decoded = decoder.decode(frames.sections, visit_of(200))
        size[bits] = len(frames.sections["symbols"])
        error = float((decoded - values).norm() / values.norm())
        assert error < {2: 2.0, 4: 0.3, 8: 0.02}[bits]
    assert size[2] < 0.5 * size[4] < 0.5 * size[8] and size[4] < 0.5 * 200 * WIDTH, "below four bits an element"


def test_the_same_seed_draws_the_same() -> None:
    one, two, other = ends(keep=0.5)[0], ends(keep=0.5)[0], ends(keep=0.5, seed=1)[0]
    first, second, third = (
        encoder.encode(gradients(), visit_of(24)).sections["symbols"] for encoder in (one, two, other)
    )
    assert torch.equal(first, second) and not torch.equal(first, third)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_rows_that_are_not_finite_arrive_raw(bad: float) -> None:
    encoder, decoder = ends(keep=0.5)
    values = gradients()
    values[3, 7] = bad
    frames = encoder.encode(values, visit_of(24))
    decoded = decoder.decode(frames.sections, visit_of(24))
    assert frames.cold == 1 and torch.equal(decoded[3].isfinite(), values[3].isfinite())
    assert bool(decoded[torch.arange(24) != 3].isfinite().all())


@pytest.mark.parametrize("section", ["modes", "scales", "symbols"])
@pytest.mark.parametrize("change", ["short", "long"])
def test_malformed_sections_are_refused(section: str, change: str) -> None:
    encoder, decoder = ends()
    sections = dict(encoder.encode(gradients(), visit_of(24)).sections)
    part = sections[section]
    sections[section] = part[:-1] if change == "short" else torch.cat([part, part[:1]])
    with pytest.raises(WireError):
        decoder.decode(sections, visit_of(24))
