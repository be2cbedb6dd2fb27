"""Raw rows cross in front of the symbols; nothing that is not such a payload is believed."""

import pytest
import torch

from splitcom_dist.codec.sections import as_section
from splitcom_dist.codec.video.payload import (
    max_payload_bytes,
    pack_modes,
    pack_payload,
    unpack_modes,
    unpack_payload,
)
from splitcom_dist.errors import WireError

WIDTH = 12
COLD = torch.tensor([[float("nan"), float("inf")] * 6, [3.0e38] * 12])
SYMBOLS = torch.arange(-30, 30, dtype=torch.int32).view(5, WIDTH)


@pytest.mark.parametrize("cold", [COLD, COLD[:0]])
@pytest.mark.parametrize("symbols", [SYMBOLS, SYMBOLS[:0]])
def test_rows_and_symbols_come_back(cold: torch.Tensor, symbols: torch.Tensor) -> None:
    packed = {"symbols": pack_payload(cold, symbols, [WIDTH])}
    assert len(packed["symbols"]) <= max_payload_bytes(len(cold) + len(symbols), WIDTH)
    rows, decoded = unpack_payload(packed, len(cold), len(symbols), [WIDTH])
    assert torch.equal(rows.isnan(), cold.isnan())
    assert torch.equal(rows.nan_to_num(), cold.bfloat16().float().nan_to_num())
    assert torch.equal(decoded, symbols)


def test_fewer_bytes_than_the_raw_rows_need_are_refused() -> None:
    packed = {"symbols": pack_payload(COLD, SYMBOLS, [WIDTH])[: 2 * WIDTH * 2 - 1]}
    with pytest.raises(WireError, match="symbols: 47 bytes cannot hold 48 of raw positions"):
        unpack_payload(packed, 2, 5, [WIDTH])


def test_an_unknown_kind_of_frame_is_refused() -> None:
    sections = {"modes": pack_modes(torch.tensor([0, 2, 3, 1], dtype=torch.uint8))}
    assert unpack_modes(sections, 4, last=3).tolist() == [0, 2, 3, 1]
    with pytest.raises(WireError, match="modes: 3 is no kind of frame"):
        unpack_modes(sections, 4, last=2)
    with pytest.raises(WireError):
        unpack_modes({"modes": as_section(b"")}, 4, last=3)
