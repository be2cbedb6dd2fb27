"""TAH-Quant's tiles: the paper's bytes, its rules for rotation and bits, and the stated error."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitcom_dist.codec.rivals.tiles import HEAD_BYTES, LOW, ROTATED, TILE, Tiles
from splitcom_dist.errors import WireError


def rebuilt(quantizer: Tiles, rows: Tensor) -> Tensor:
    return quantizer.decode(*quantizer.encode(rows), *rows.shape)


def flags(quantizer: Tiles, rows: Tensor) -> Tensor:
    """Of each row's full tiles."""
    _, symbols = quantizer.encode(rows)
    full = rows.shape[1] // TILE
    return symbols.view(len(rows), -1)[:, : full * HEAD_BYTES].view(len(rows), full, HEAD_BYTES)[..., -1]


@st.composite
def values(draw: st.DrawFn) -> Tensor:
    tokens, width = draw(st.integers(0, 4)), draw(st.sampled_from([1, 12, 32, 64, 65, 100, 128, 160, 320, 448]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    rows = torch.randn(tokens, width, generator=generator) * 10.0 ** draw(st.integers(-12, 12))
    for _ in range(draw(st.integers(0, 3)) if tokens else 0):
        rows[draw(st.integers(0, tokens - 1)), draw(st.integers(0, width - 1))] *= 1e4  # a massive activation
    if tokens and draw(st.booleans()):
        rows[0] = draw(st.sampled_from([0.0, 3.0, -3.0]))
    return rows


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@settings(deadline=None)
@given(rows=values())
def test_reconstruction_stays_within_the_stated_bound(bits: int, rows: Tensor) -> None:
    quantizer = Tiles(torch.float32, bits)
    decoded = rebuilt(quantizer, rows)
    for start in range(0, rows.shape[1], TILE):
        tile, error = rows[:, start : start + TILE], (decoded - rows)[:, start : start + TILE]
        # of a rotated tile, too, the coefficients span at most twice its norm, and rotation keeps norms
        span = 2 * tile.norm(dim=1)
        step = span * (1 + 2**-5) / (2 ** (bits - 1) - 1)
        assert (error.norm(dim=1) <= step / 2 * tile.shape[1] ** 0.5 + 1e-30).all()


def test_an_even_tile_is_rounded_to_half_a_step() -> None:
    rows = torch.rand(50, TILE) + 1  # no element is twice the next
    decoded = rebuilt(Tiles(torch.float32, 4), rows)
    span = rows.amax(1, keepdim=True) - rows.amin(1, keepdim=True)
    assert ((decoded - rows).abs() <= (span + 2**-6) * (1 + 2**-7) / 15 / 2).all()
    assert not (flags(Tiles(torch.float32, 4), rows) & ROTATED).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(deadline=None)
@given(rows=values())
def test_sections_have_the_size_the_receiver_expects(dtype: torch.dtype, rows: Tensor) -> None:
    quantizer = Tiles(dtype)
    scales, symbols = quantizer.encode(rows.to(dtype))
    assert scales.dtype == symbols.dtype == torch.uint8
    assert len(scales) == quantizer.scale_bytes(len(rows))
    assert len(symbols) == quantizer.symbol_bytes(*rows.shape) == len(rows) * quantizer.symbol_bytes(1, rows.shape[1])
    decoded = quantizer.decode(scales, symbols, *rows.shape)
    assert decoded.dtype == dtype
    before = decoded.clone()
    symbols.fill_(0)
    assert torch.equal(decoded, before), "the receive buffer is not aliased"


def test_tah_has_the_bytes_of_its_paper() -> None:
    """GPT-2 XL, d = 1600: 0.8 x 4 + 0.2 x 3 bit an element and 39 a tile, 4.41 in all; here 40 a tile."""
    bits = Tiles(torch.bfloat16, 4).symbol_bytes(1, 1600) * 8 / 1600
    assert bits == pytest.approx(0.8 * 4 + 0.2 * 3 + 40 / 64, rel=1e-12)
    assert bits - 4.409375 == pytest.approx(1 / 64, rel=1e-9)
    assert Tiles(torch.bfloat16, 6).symbol_bytes(1, 1600) * 8 / 1600 == pytest.approx(0.8 * 6 + 0.2 * 5 + 40 / 64)


def test_a_tile_with_one_outlier_is_rotated_and_survives() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, TILE, generator=generator)
    rows[:, 17] = 30.0
    quantizer = Tiles(torch.float32, 4)
    assert (flags(quantizer, rows) == ROTATED | 17).all()
    plain = (rows.amax(1) - rows.amin(1)).mean() / 15 / 12**0.5  # rms error of the same tile without rotation
    assert (rebuilt(quantizer, rows) - rows).square().mean().sqrt() < plain / 2


def test_an_element_of_less_than_twice_the_next_is_no_outlier() -> None:
    rows = torch.ones(2, TILE)
    rows[:, 5] = torch.tensor([1.99, 2.0])
    assert flags(Tiles(torch.float32), rows).flatten().tolist() == [0, ROTATED | 5]


def test_the_tiles_of_least_entropy_get_one_bit_less() -> None:
    rows = 1 + torch.rand(3, 10 * TILE)
    rows[:, 2 * TILE : 2 * TILE + 60] = 0.01  # most of the mass in four channels
    rows[:, 7 * TILE : 7 * TILE + 50] = 0.01
    low = (flags(Tiles(torch.float32), rows) & LOW) > 0
    assert low.nonzero()[:, 1].tolist() == [2, 7] * 3


def test_a_massive_channel_costs_its_own_tile_alone() -> None:
    rows = torch.randn(20, 256, generator=torch.Generator().manual_seed(3))
    calm = rebuilt(Tiles(torch.float32, 6), rows)
    rows[:, 70] = 1e4
    decoded = rebuilt(Tiles(torch.float32, 6), rows)
    assert torch.allclose(decoded[:, 70], rows[:, 70], rtol=0.01)
    assert torch.equal(decoded[:, :64], calm[:, :64]) and torch.equal(decoded[:, 128:], calm[:, 128:])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_does_not_come_back_finite(bad: float) -> None:
    rows = torch.randn(2, 128)
    rows[0, 3] = bad
    decoded = rebuilt(Tiles(torch.float32), rows)
    assert not decoded[0, 3].isfinite() and decoded[0, 64:].isfinite().all() and decoded[1].isfinite().all()


@pytest.mark.parametrize(
    ("width", "flag"),
    [(320, 0), (320, LOW), (12, 12), (12, ROTATED)],
    ids=["none has less bits", "all have less bits", "a pivot behind the tile", "a rotation of 12 channels"],
)
def test_flags_that_no_encoder_makes_are_refused(width: int, flag: int) -> None:
    quantizer = Tiles(torch.float32)
    scales, symbols = quantizer.encode(1 + torch.rand(1, width))
    symbols[HEAD_BYTES - 1 : HEAD_BYTES * max(width // TILE, 1) : HEAD_BYTES] = flag
    with pytest.raises(WireError, match="symbols"):
        quantizer.decode(scales, symbols, 1, width)
