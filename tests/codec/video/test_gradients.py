"""Gradients by few bits and few tokens: right in expectation, and silent about what is exactly zero."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitcom_dist.codec.video.gradients import SampledDecoder, SampledEncoder, keep_probabilities
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.errors import WireError

WIDTH = 32


def ends(noise: float = 0.1, keep: float = 1.0, seed: int = 0) -> tuple[SampledEncoder, SampledDecoder]:
    config = LinkCodecConfig(gate="sampled", noise=noise, keep=keep)
    return SampledEncoder(config, WIDTH, torch.float32, seed), SampledDecoder(config, WIDTH, torch.float32)


def gradients(rows: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, WIDTH, generator=generator) * torch.logspace(-3, 0, rows).unsqueeze(1)


def visit_of(rows: int) -> Visit:
    return Visit([3, 5], torch.tensor([rows - 4, 4]))


@pytest.mark.parametrize("noise", [0.001, 0.1, 1.0])
@pytest.mark.parametrize("keep", [1.0, 0.5, 0.2])
def test_the_mean_over_many_draws_is_the_gradient(noise: float, keep: float) -> None:
    values, draws = gradients(), 1500
    encoder, decoder = ends(noise, keep)
    visit = visit_of(len(values))
    decoded = torch.stack([decoder.decode(encoder.encode(values, visit).sections, visit) for _ in range(draws)])
    # Single weak elements are non-zero once in many draws; sums over all of them are near to normal.
    directions = torch.randn(values.numel(), 200, generator=torch.Generator().manual_seed(2))
    found = (decoded - values).flatten(1) @ directions
    errors = found.mean(dim=0) / (found.std(dim=0) / draws**0.5)
    assert float(errors.abs().max()) < 4.5 and float(errors.square().mean()) < 1.6


@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_as_many_tokens_are_sent_as_asked_and_heavy_ones_first(keep: float) -> None:
    values = gradients(200)
    encoder, _ = ends(0.1, keep)
    counts = [encoder.encode(values, visit_of(200)).intra for _ in range(50)]
    assert sum(counts) / 50 == pytest.approx(keep * 200, rel=0.05)
    probability = keep_probabilities(values.norm(dim=1), keep)
    assert float(probability[-1]) == 1.0 and float(probability[0]) < 0.1 * keep
    uniform = (values.square().sum(dim=1) * (1 / keep - 1)).sum()
    ours = (values.square().sum(dim=1) * (1 / probability - 1)).sum()
    assert float(ours) < 0.3 * float(uniform), "the variance of uniform sampling"


@given(sizes=st.lists(st.just(0.0) | st.floats(1e-20, 1e6), min_size=0, max_size=40), keep=st.floats(0.01, 1))
def test_probabilities_are_proportional_and_spend_the_budget(sizes: list[float], keep: float) -> None:
    size = torch.tensor(sizes)
    probability = keep_probabilities(size, keep)
    positive = int((size > 0).sum())
    assert bool((probability[size == 0] == 0).all()) and bool(((probability >= 0) & (probability <= 1)).all())
    assert float(probability.sum()) == pytest.approx(keep * positive, rel=1e-3, abs=1e-3)
    free = (probability < 1) & (size > 0)
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
    assert nothing.intra == 0 and sum(map(len, nothing.sections.values())) <= 5


def test_rounding_adds_the_variance_asked_for_and_bits_follow() -> None:
    values, bits = gradients(200), {}
    for noise in (0.01, 0.1, 1.0):
        encoder, decoder = ends(noise)
        frames = encoder.encode(values, visit_of(200))
        decoded = decoder.decode(frames.sections, visit_of(200))
        added = float((decoded - values).square().sum() / values.square().sum())
        assert 0.3 * noise < added < 1.1 * noise, "small values have less variance than the mean over a step"
        bits[noise] = 8 * len(frames.sections["symbols"]) / values.numel()
    assert bits[0.01] > bits[0.1] + 0.8 > bits[1.0] + 1.2 and bits[1.0] < 1


def test_what_is_sent_is_small_where_the_gradient_is() -> None:
    """One step for all: a token of a thousandth of the norm costs next to nothing."""
    encoder, _ = ends(0.01)
    weak, strong = gradients(200).clone(), gradients(200).clone()
    weak[:100] *= 1e-3
    sizes = [len(encoder.encode(values, visit_of(200)).sections["symbols"]) for values in (weak, strong)]
    assert sizes[0] < 0.9 * sizes[1]


def test_the_same_seed_draws_the_same() -> None:
    one, two, other = ends(keep=0.5)[0], ends(keep=0.5)[0], ends(keep=0.5, seed=1)[0]
    first, second, third = (
        encoder.encode(gradients(), visit_of(24)).sections["symbols"] for encoder in (one, two, other)
    )
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_a_resumed_end_draws_as_the_other_would_have() -> None:
    one, two = ends(keep=0.5)[0], ends(keep=0.5, seed=5)[0]
    one.encode(gradients(), visit_of(24))
    two.load(one.state())
    packets = [encoder.encode(gradients(), visit_of(24)).sections for encoder in (one, two)]
    assert all(torch.equal(packets[0][name], packets[1][name]) for name in packets[0])


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
