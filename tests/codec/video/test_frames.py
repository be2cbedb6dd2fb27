"""Per-position I/P/S frames: the bound holds always, both ends agree bit for bit, and what is left over comes back."""

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitcom_dist.codec.frames import Frames
from splitcom_dist.codec.video.basis import Basis, bands_of, basis_bytes
from splitcom_dist.codec.video.decoder import VideoDecoder
from splitcom_dist.codec.video.encoder import VideoEncoder
from splitcom_dist.codec.video.lessons import PAID
from splitcom_dist.codec.video.transform import Rotation, Transform
from splitcom_dist.codec.visit import Visit
from splitcom_dist.config.schema import LinkCodecConfig
from splitcom_dist.errors import WireError

WIDTH = 32
# Samples 0..3 as key paths; 1 shares the first two positions of 0, 3 all of 2 and one more.
PATHS = [np.array(path) for path in ([0, 1, 2], [0, 1, 3, 4], [5, 6], [5, 6, 7])]
STORE_ERROR = {"float32": 0.0, "bfloat16": 2**-8, "int8": 0.02}  # relative, of Gaussian rows


def ends(folder: Path | None = None, **changes: object) -> tuple[VideoEncoder, VideoDecoder]:
    config = LinkCodecConfig(gate="error", **changes)  # type: ignore[arg-type]
    return VideoEncoder(config, WIDTH, torch.float32, folder), VideoDecoder(config, WIDTH, torch.float32, folder)


def visit_of(samples: list[int]) -> Visit:
    paths = [PATHS[sample] for sample in samples]
    return Visit(samples, torch.tensor([len(path) for path in paths]), paths)


def relative(found: Tensor, wanted: Tensor) -> Tensor:
    error: Tensor = torch.linalg.vector_norm(found - wanted, dim=1) / torch.linalg.vector_norm(wanted, dim=1)
    return error


batches = st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=4, unique=True)
histories = st.lists(st.tuples(batches, st.sampled_from([0.0, 0.03, 0.2, 3.0])), min_size=1, max_size=10)


@pytest.mark.parametrize("store_dtype", ["bfloat16", "float32", "int8"])
@pytest.mark.parametrize("limit", [0, 4])
@settings(max_examples=60, deadline=None)
@given(history=histories, tau=st.sampled_from([0.05, 0.1, 0.3]), seed=st.integers(0, 99))
def test_every_position_is_within_the_bound_and_the_ends_agree(
    store_dtype: str, limit: int, history: list[tuple[list[int], float]], tau: float, seed: int
) -> None:
    encoder, decoder = ends(tau=tau, store_dtype=store_dtype, store_rows=limit)
    generator = torch.Generator().manual_seed(seed)
    current = torch.randn(8, WIDTH, generator=generator)
    for samples, drift in history:
        current += drift * torch.randn(current.shape, generator=generator)
        visit = visit_of(samples)
        values = current[visit.keys]
        before = encoder.store.known(visit.keys)
        frames = encoder.encode(values, visit)
        decoded = decoder.decode(frames.sections, visit)
        assert frames.intra + frames.predicted + frames.skipped + frames.cold == visit.tokens
        assert encoder.store.digest == decoder.store.digest
        assert frames.cold == 0
        assert float(relative(decoded, values).max()) <= tau * 1.0001 + STORE_ERROR[store_dtype]
        distinct = len(set(visit.keys.tolist()))
        assert frames.intra >= distinct - len(set(visit.keys[before].tolist())), "an unknown position is sent whole"
        if limit == 0:
            assert torch.equal(decoder.recall(visit), decoded), "what the server goes on with while clients rest"


def test_modes_follow_the_rule() -> None:
    encoder, decoder = ends(tau=0.1, store_dtype="float32")
    rows, visit = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1)), visit_of([0])
    held = decoder.decode(encoder.encode(rows, visit).sections, visit)
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(2))
    noise *= held.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    now = held + noise * torch.tensor([[0.05], [0.5], [30.0]])  # within tau; nearer than zero; further than zero
    frames = encoder.encode(now, visit)
    assert (frames.skipped, frames.predicted, frames.intra) == (1, 1, 1)
    again = decoder.decode(frames.sections, visit)
    assert torch.equal(again[0], held[0])


def test_a_prefix_is_coded_once_in_a_batch_and_known_to_later_samples() -> None:
    encoder, decoder = ends(store_dtype="float32")
    rows = torch.randn(8, WIDTH)
    both = visit_of([0, 1])
    frames = encoder.encode(rows[both.keys], both)
    assert (frames.intra, frames.skipped) == (5, 2)
    decoder.decode(frames.sections, both)
    first, longer = visit_of([2]), visit_of([3])
    decoder.decode(encoder.encode(rows[first.keys], first).sections, first)
    later = encoder.encode(rows[longer.keys], longer)
    assert (later.intra, later.predicted) == (1, 0), "sample 3 is new, but only its last position is"


def test_the_remainder_returns_at_the_next_visit() -> None:
    """EF21: against fixed values every visit that sends leaves less than `refine` x tau of what was there."""
    encoder, decoder = ends(tau=0.1, refine=0.5, store_dtype="float32")
    values, visit = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0)), visit_of([0])
    errors = []
    for theta in (0.995, 0.99955, 0.99995, 0.9999955):  # a controller lowers tau: 0.1, 0.03, 0.01, 0.003
        encoder.theta = theta
        errors.append(float(relative(decoder.decode(encoder.encode(values, visit).sections, visit), values).max()))
    assert all(after < 0.6 * before for before, after in pairwise(errors)), errors
    assert errors[-1] < 0.003
    frames = encoder.encode(values, visit)
    assert frames.skipped == 3, "what is within the bound crosses no more"


def test_a_drifting_value_never_leaves_the_bound_while_most_visits_are_skipped() -> None:
    encoder, decoder = ends(tau=0.1, refine=0.3, store_dtype="float32")
    generator = torch.Generator().manual_seed(0)
    values, visit, skipped = torch.randn(3, WIDTH, generator=generator), visit_of([0]), 0
    for _ in range(40):
        values = values + 0.02 * torch.randn(values.shape, generator=generator)
        frames = encoder.encode(values, visit)
        skipped += frames.skipped
        assert float(relative(decoder.decode(frames.sections, visit), values).max()) <= 0.1
    assert 60 < skipped < 117, "a random walk of 2 % a visit leaves 10 % after about 20 visits"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
def test_rows_that_no_step_fits_are_sent_cold_and_not_remembered(bad: float) -> None:
    encoder, decoder = ends(store_dtype="float32")
    values, visit = torch.randn(3, WIDTH), visit_of([0])
    decoder.decode(encoder.encode(values, visit).sections, visit)
    values = values.clone()
    values[1, 4] = bad
    frames = encoder.encode(values, visit)
    decoded = decoder.decode(frames.sections, visit)
    assert (frames.cold, frames.skipped) == (1, 2)
    assert torch.equal(decoded[1], values[1].bfloat16().float()) or bad != bad
    assert not bool(decoder.store.known(torch.tensor([1]))) and encoder.store.digest == decoder.store.digest
    healed = encoder.encode(torch.randn(3, WIDTH), visit)
    assert healed.intra >= 1 and healed.cold == 0


def test_massive_channels_do_not_drown_the_others_beyond_the_bound() -> None:
    encoder, decoder = ends(tau=0.05, store_dtype="bfloat16")
    values, visit = torch.randn(3, WIDTH), visit_of([0])
    values[:, 7] = 4000.0
    decoded = decoder.decode(encoder.encode(values, visit).sections, visit)
    assert float(relative(decoded, values).max()) <= 0.05 + 2**-8


@pytest.mark.parametrize("section", ["modes", "scales", "symbols"])
@pytest.mark.parametrize("change", ["short", "long", "none"])
def test_a_malformed_section_leaves_the_store_unchanged(section: str, change: str) -> None:
    encoder, decoder = ends()
    visit = visit_of([0, 2])
    decoder.decode(encoder.encode(torch.randn(5, WIDTH), visit).sections, visit)
    digest, sections = decoder.store.digest, dict(encoder.encode(torch.randn(5, WIDTH), visit).sections)
    part = sections[section]
    sections[section] = {"short": part[:-1], "long": torch.cat([part, part[:1]]), "none": part[:0]}[change]
    with pytest.raises(WireError):
        decoder.decode(sections, visit)
    assert decoder.store.digest == digest


def test_frames_over_references_that_are_not_there_are_refused() -> None:
    encoder, decoder = ends()
    visit = visit_of([0])
    values = torch.randn(3, WIDTH)
    encoder.encode(values, visit)  # lost
    for change, word in ((1.0, "skipped"), (1.5, "predicted")):
        with pytest.raises(WireError, match=f"position 0 is {word} from no reference"):
            decoder.decode(encoder.encode(values * change, visit).sections, visit)
    with pytest.raises(WireError, match="no reference"):
        decoder.recall(visit)
    assert len(decoder.store) == 0


def test_no_packet_exceeds_its_limits() -> None:
    encoder, decoder = ends(tau=1e-4)
    for scale in (1e-30, 1e-3, 1.0, 1e4, 1e9):
        visit = visit_of([0, 1, 2, 3])
        values = scale * torch.randn(12, WIDTH) * torch.logspace(-3, 3, WIDTH)
        frames: Frames = encoder.encode(values, visit)
        limits = decoder.limits(4, visit.tokens)
        for name, section in frames.sections.items():
            assert len(section) <= getattr(limits, name), (name, scale)
        decoder.decode(frames.sections, visit)


def exact(matrix: Tensor, symbols: Tensor) -> Tensor:
    """Sums in another order: columns backwards, half by half, in float64."""
    half = matrix.shape[0] // 2
    return symbols[:, half:].flip(1).double() @ matrix[half:].flip(0) + symbols[:, :half].double() @ matrix[:half]


@pytest.mark.parametrize("learnt", [False, True])
def test_reconstructions_are_the_same_in_whichever_order_a_machine_adds(learnt: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    transform: Transform = Rotation(192)
    if learnt:
        basis = Basis.learn(torch.randn(400, 192, generator=generator) * torch.logspace(0, -2, 192))
        transform = Basis.unpack(basis.pack(), 192)
    symbols = torch.randint(-(2**15), 2**15, (50, 192), dtype=torch.int32, generator=generator)
    found = transform.inverse(symbols, torch.ones(50))
    unit = 8.0 if not learnt else 1.0  # the rotation scales after it has added
    matrix = transform.inverse(torch.eye(192, dtype=torch.int32), torch.ones(192)).double() * unit
    assert torch.equal(found, exact(matrix, symbols).float() / unit)


def test_a_learnt_basis_loses_nothing_and_orders_by_energy() -> None:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(WIDTH, WIDTH, generator=generator) * torch.logspace(0, -2, WIDTH).unsqueeze(1)
    rows = torch.randn(500, WIDTH, generator=generator) @ mixing
    basis = Basis.learn(rows)
    basis.prepare()
    coefficients = basis.forward(rows)
    back = basis.inverse((coefficients / 2**-12).round().to(torch.int32), torch.full((500,), 2.0**-12))
    assert float((back - rows).norm() / rows.norm()) < 1e-3
    energy = coefficients.square().mean(dim=0)
    assert float(energy[: WIDTH // 4].sum() / energy.sum()) > 0.8
    assert bands_of(WIDTH) == [1, 3, 7, 15, 31, 32] and bands_of(192)[-2:] == [127, 192]


def directed(generator: torch.Generator) -> Iterator[Tensor]:
    """Values in few directions, as activations are: 8 rows a visit, new ones every time."""
    mixing = torch.randn(4, WIDTH, generator=generator)
    while True:
        yield torch.randn(8, 4, generator=generator) @ mixing + 0.01 * torch.randn(8, WIDTH, generator=generator)


@pytest.mark.parametrize("basis", [False, True])
def test_the_basis_crosses_once_when_it_can_pay_and_does(basis: bool) -> None:
    encoder, decoder = ends(basis=basis, store_dtype="float32", tau=0.05)
    visit, sizes, sides = visit_of([0, 1, 2, 3]), [], []
    for distinct in islice(directed(torch.Generator().manual_seed(0)), 60):
        frames = encoder.encode(distinct[visit.keys], visit)
        decoded = decoder.decode(frames.sections, visit)
        assert float(relative(decoded, distinct[visit.keys]).max()) <= 0.05 * 1.0001
        sizes.append(len(frames.sections["symbols"]))
        sides.append(len(frames.sections["side"]))
    told = [side >= basis_bytes(WIDTH) for side in sides]
    assert sum(told) == int(basis)
    if basis:
        first = told.index(True)
        assert sum(sizes[:first]) >= PAID * basis_bytes(WIDTH) > sum(sizes[: first - 1])
        assert sum(sizes[first:]) / len(sizes[first:]) < 0.5 * sum(sizes[:first]) / first


def test_resumed_ends_go_on_bit_for_bit() -> None:
    """At any visit, before and after the basis: the same packets, the same rows."""
    encoder, decoder = ends(tau=0.05)
    visit = visit_of([0, 1, 2, 3])
    for number, distinct in enumerate(islice(directed(torch.Generator().manual_seed(0)), 40)):
        if number % 3 == 0:
            again, other = ends(tau=0.05)
            again.load(encoder.state())
            other.load(decoder.state())
        values = distinct[visit.keys]
        frames, resumed = encoder.encode(values, visit), again.encode(values, visit)
        assert all(torch.equal(frames.sections[name], resumed.sections[name]) for name in frames.sections), number
        assert torch.equal(decoder.decode(frames.sections, visit), other.decode(resumed.sections, visit))
        assert encoder.store.digest == again.store.digest == other.store.digest
    assert isinstance(encoder.transform, Basis)


def test_a_new_row_is_sent_as_the_change_from_its_nearest() -> None:
    encoder, decoder = ends(store_dtype="float32", basis=False, tau=0.05)
    generator = torch.Generator().manual_seed(0)
    first, second = visit_of([0]), visit_of([2])
    rows = torch.randn(3, WIDTH, generator=generator)
    alone = encoder.encode(rows, first)
    decoder.decode(alone.sections, first)
    near = rows[[2, 0]] + 0.05 * torch.randn(2, WIDTH, generator=generator)
    frames = encoder.encode(near, second)
    assert frames.intra == 2
    assert np.frombuffer(frames.sections["side"].numpy().tobytes(), "<u2").tolist() == [4, 6], "keys 2 and 0, from 6"
    assert len(frames.sections["symbols"]) / 2 < 0.5 * len(alone.sections["symbols"]) / 3
    assert float(relative(decoder.decode(frames.sections, second), near).max()) <= 0.05
    third = visit_of([1])
    frames = encoder.encode(torch.randn(4, WIDTH, generator=generator), third)
    sections = frames.sections | {"side": torch.full((2 * frames.intra,), 255, dtype=torch.uint8)}
    with pytest.raises(WireError, match="predicted from one that is not held"):
        decoder.decode(sections, third)
