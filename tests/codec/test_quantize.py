"""Every quantizer keeps its stated error bound, and its sizes are what a receiver will expect."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from splitcom_dist.codec.quantize import Quantizer, quantizer_of
from splitcom_dist.config.schema import LinkCodecConfig

NAMES = ["fp16", "int8", "none", "tiles"]


def make(name: str, dtype: torch.dtype = torch.float32) -> Quantizer:
    return quantizer_of(LinkCodecConfig(quantizer=name), dtype)


@st.composite
def rows(draw: st.DrawFn) -> Tensor:
    tokens, width = draw(st.integers(0, 9)), draw(st.integers(1, 33))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    values = torch.randn(tokens, width, generator=generator) * 10.0 ** draw(st.integers(-30, 30))
    if tokens and draw(st.booleans()):
        values[draw(st.integers(0, tokens - 1)), draw(st.integers(0, width - 1))] *= 1e4  # a massive activation
    if tokens and draw(st.booleans()):
        values[0] = 0
    return values


def bound(name: str, values: Tensor) -> Tensor:
    if name == "none":
        return torch.zeros_like(values)
    if name == "fp16":
        inside = values.abs() * 2.0**-11 + 2.0**-25
        return torch.where(values.abs() <= 65504, inside, values.abs() - 65504 + 32)
    peak = values.abs().amax(dim=1, keepdim=True).expand_as(values) if values.numel() else values
    return peak / 127 * (0.5 + 2.0**-7) + 1e-37


@pytest.mark.parametrize("name", ["fp16", "int8", "none"])  # tiles: see test_tiles.py
@given(values=rows())
def test_reconstruction_stays_within_the_stated_bound(name: str, values: Tensor) -> None:
    quantizer = make(name)
    decoded = quantizer.decode(*quantizer.encode(values), *values.shape)
    assert decoded.shape == values.shape
    assert ((decoded - values).abs() <= bound(name, values)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(values=rows())
def test_sections_have_the_size_the_receiver_expects(name: str, dtype: torch.dtype, values: Tensor) -> None:
    quantizer = make(name, dtype)
    scales, symbols = quantizer.encode(values.to(dtype))
    assert scales.dtype == symbols.dtype == torch.uint8
    assert len(scales) == quantizer.scale_bytes(len(values))
    assert len(symbols) == quantizer.symbol_bytes(*values.shape)
    assert quantizer.decode(scales, symbols, *values.shape).dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_a_reconstruction_does_not_alias_the_receive_buffer(name: str) -> None:
    quantizer = make(name)
    scales, symbols = quantizer.encode(torch.randn(3, 4))
    decoded = quantizer.decode(scales, symbols, 3, 4)
    before = decoded.clone()
    scales.fill_(0xAB)
    symbols.fill_(0xAB)
    assert torch.equal(decoded, before)


def test_int8_keeps_the_peak_of_every_row() -> None:
    values = torch.randn(1000, 16)
    quantizer = make("int8")
    decoded = quantizer.decode(*quantizer.encode(values), *values.shape)
    peaks = values.abs().argmax(dim=1, keepdim=True)
    assert torch.allclose(decoded.gather(1, peaks), values.gather(1, peaks), rtol=2**-7)
