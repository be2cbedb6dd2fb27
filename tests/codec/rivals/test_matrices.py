"""A sample's matrix comes back within the stated error, at the papers' bytes, and stochastic rounding is unbiased."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitcom_dist.codec.rivals.matrices import (
    Channels,
    LowRank,
    MatrixQuantizer,
    pack_bits,
    truncated_svd,
    unpack_bits,
)


def rebuilt(quantizer: MatrixQuantizer, matrix: Tensor, seed: int = 0) -> Tensor:
    sections = quantizer.encode(matrix, torch.Generator().manual_seed(seed))
    return quantizer.decode(*sections, *matrix.shape)


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    tokens, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    matrix = torch.randn(tokens, width, generator=generator) * 10.0 ** draw(st.integers(-12, 12))
    kind = draw(st.sampled_from(["any", "zero", "constant", "massive", "one row"]))
    if kind == "zero":
        matrix.zero_()
    if kind == "constant":
        matrix[:] = matrix[0].clone()
    if kind == "massive":
        matrix[:, 0] *= 1e4
    if kind == "one row":
        matrix[1:] = 0
    return matrix


QUANTIZERS = [*(Channels(bits) for bits in (2, 3, 4, 8)), *(LowRank(bits, rank) for bits in (3, 8) for rank in (1, 16))]


@settings(deadline=None)
@given(count=st.integers(0, 40), rows=st.integers(0, 3), bits=st.integers(1, 8), seed=st.integers(0, 99))
def test_symbols_are_packed_tightly_and_come_back(count: int, rows: int, bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(0, 2**bits, (rows, count), generator=generator).to(torch.uint8)
    packed = pack_bits(symbols, bits)
    assert packed.shape == (rows, (count * bits + 7) // 8)
    assert torch.equal(unpack_bits(packed, count, bits), symbols)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@settings(deadline=None)
@given(matrix=matrices())
def test_sections_have_the_size_the_receiver_expects(quantizer: MatrixQuantizer, matrix: Tensor) -> None:
    scales, symbols = quantizer.encode(matrix, torch.Generator().manual_seed(0))
    assert scales.dtype == symbols.dtype == torch.uint8
    assert len(scales) == quantizer.scale_bytes(*matrix.shape)
    assert len(symbols) == quantizer.symbol_bytes(*matrix.shape) <= 2 * matrix.numel(), "never more than sent whole"
    decoded = quantizer.decode(scales, symbols, *matrix.shape)
    before = decoded.clone()
    scales.fill_(0xAB)
    symbols.fill_(0xAB)
    assert decoded.dtype == torch.float32 and torch.equal(decoded, before), "the receive buffer is not aliased"


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@settings(deadline=None)
@given(matrix=matrices())
def test_channels_keep_their_bound(bits: int, matrix: Tensor) -> None:
    step = matrix.abs().amax(0) * (1 + 2**-7) / 2 ** (bits - 1)
    error = (rebuilt(Channels(bits), matrix) - matrix).abs()
    assert (error <= step * (1 + 1e-5) + 1e-37).all(), "one step at a positive peak"
    inside = matrix <= matrix.abs().amax(0) * (1 - 0.5 ** (bits - 1))  # below the highest level
    assert (error <= step * (0.5 + 1e-5) + 1e-37)[inside].all(), "half a step elsewhere"


@pytest.mark.parametrize("bits", [3, 8])
@settings(deadline=None)
@given(matrix=matrices())
def test_low_rank_keeps_its_bound_where_the_rank_is_full(bits: int, matrix: Tensor) -> None:
    """One step for each factor of each direction: |ab - a'b'| <= |a| db + |b| da + da db."""
    left, right = truncated_svd(matrix, min(matrix.shape))
    steps = [factor.abs().amax(1, keepdim=True) * (1 + 2**-7) / (2 ** (bits - 1) - 1) for factor in (left, right)]
    bound = (left.abs() + steps[0]).T @ (right.abs() + steps[1]) - left.abs().T @ right.abs()
    assert ((rebuilt(LowRank(bits, 16), matrix) - matrix).abs() <= bound * 1.01 + 1e-5 * matrix.norm() + 1e-30).all()


def test_truncated_svd_is_that_of_linalg() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((20, 33), (33, 20), (1, 9), (9, 1)):
        matrix, rank = torch.randn(shape, generator=generator), min(4, *shape)
        left, right = truncated_svd(matrix, rank)
        u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
        assert left.shape == (rank, shape[0]) and right.shape == (rank, shape[1])
        assert torch.allclose((left.T @ right).double(), u[:, :rank] * s[:rank] @ v[:rank], atol=1e-5)
        assert torch.allclose(left.norm(dim=1), s[:rank].sqrt().float(), rtol=1e-4), "sqrt(s) in both factors"
        assert torch.allclose(right.norm(dim=1), s[:rank].sqrt().float(), rtol=1e-4)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_stochastic_rounding_is_unbiased(bits: int) -> None:
    matrix, draws = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)), 4000
    left, right = truncated_svd(matrix, 2)
    quantizer, generator = LowRank(bits, 2), torch.Generator().manual_seed(2)
    decoded = torch.stack([quantizer.decode(*quantizer.encode(matrix, generator), 5, 7) for _ in range(draws)])
    deviation = (decoded.mean(0) - left.T @ right).abs()
    assert (deviation <= 4 * decoded.std(0) / draws**0.5 + 1e-6).all()
    assert decoded.std(0).max() > 0, "a rounding that does not vary would have to be exact"


def test_aqsgd_has_the_bytes_of_its_paper() -> None:
    """4 bit an element forward and 8 backward, and one 16-bit scale a channel."""
    tokens, width = 256, 768
    assert Channels(4).symbol_bytes(tokens, width) == tokens * width * 4 // 8
    assert Channels(8).symbol_bytes(tokens, width) == tokens * width
    assert Channels(4).scale_bytes(tokens, width) == Channels(8).scale_bytes(tokens, width) == 2 * width


@pytest.mark.parametrize(("bits", "directions"), [(4, 2), (8, 4)], ids=["up", "down"])
def test_splitlite_has_the_bytes_of_its_paper(bits: int, directions: int) -> None:
    """2r(1/S + 1/d) 4/16 of FP16 up, 4r(1/S + 1/d) 8/16 down, and 4 bytes of scales a direction on top."""
    tokens, width, rank = 256, 768, 8
    quantizer = LowRank(bits, directions * rank)
    share = directions * rank * (1 / tokens + 1 / width) * bits / 16
    scales, symbols = quantizer.encode(torch.randn(tokens, width), torch.Generator().manual_seed(0))
    assert len(symbols) == pytest.approx(share * 2 * tokens * width, rel=1e-12)
    assert len(scales) == 4 * directions * rank


def test_short_samples_keep_all_their_directions() -> None:
    matrix = torch.randn(10, 300)
    quantizer = LowRank(bits=8, rank=32)
    assert quantizer.symbol_bytes(10, 300) == 10 * (10 + 300)
    assert float((rebuilt(quantizer, matrix) - matrix).norm() / matrix.norm()) < 0.03
