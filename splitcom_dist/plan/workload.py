"""What a part of a model costs: operations forward and backward, bytes at the cut, adapter elements, memory.

A floating-point operation is half a multiply-add, as torch counts; matrix products and attention are counted, the rest
of a block is less than a percent of them. Base weights are frozen and have no gradient of their own, and nothing flows
back below the first adapter. A causal mask saves nothing here, nor does the recomputation of fused attention count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from splitcom_dist.models.families import family_of
from splitcom_dist.plan.blocks import Linear, ModelShape

ADAPTER_COPIES = 4  # float32 each: value, gradient and AdamW's two moments


@dataclass(frozen=True)
class Adapter:
    """LoRA on projections with these names, as peft matches them; none: the family's attention projections."""

    rank: int
    targets: Sequence[str] | None = None

    def on(self, linear: Linear, shape: ModelShape) -> bool:
        targets = self.targets or family_of(shape.family).lora_targets
        return any(linear.path == target or linear.path.endswith("." + target) for target in targets)

    def elements(self, shape: ModelShape) -> int:
        """Adapter elements of one block."""
        adapted = [linear for linear in shape.block.linears if self.on(linear, shape)]
        return self.rank * sum(linear.inputs + linear.outputs for linear in adapted)


@dataclass(frozen=True)
class Batch:
    """A padded batch and how many of its positions predict a target (all: None)."""

    samples: int
    length: int
    targets: int | None = None

    @property
    def positions(self) -> int:
        return self.samples * self.length


@dataclass(frozen=True)
class Operations:
    """Floating-point operations."""

    forward: int
    backward: int

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.forward + other.forward, self.backward + other.backward)


NOTHING = Operations(0, 0)


def block_operations(shape: ModelShape, adapter: Adapter, batch: Batch, input_trains: bool) -> Operations:
    """One block; `input_trains`: a gradient of its input is wanted, because adapters lie below."""
    block, forward, backward = shape.block, 0, 0

    def through(linear: Linear, needs: bool) -> bool:
        nonlocal forward, backward
        adapted = adapter.on(linear, shape)
        work = _linear(linear, adapter.rank if adapted else 0, batch.positions, needs)
        forward, backward = forward + work.forward, backward + work.backward
        return needs or adapted

    trains: dict[str, bool] = {}
    for linear in block.attention:
        trains |= dict.fromkeys(linear.makes, through(linear, input_trains))
    product = 2 * batch.samples * batch.length**2 * block.heads * block.head_dim  # queries by keys; scores by values
    scores = trains["q"] or trains["k"]
    forward += 2 * product
    backward += product * (trains["q"] + trains["k"] + scores + trains["v"])
    after = through(block.output, scores or trains["v"]) or input_trains
    inner = [through(linear, input_trains if block.parallel else after) for linear in block.mlp_inner]
    through(block.mlp_output, any(inner))
    return Operations(forward, backward)


def part_operations(
    shape: ModelShape, adapter: Adapter, batch: Batch, first: int, last: int, *, trains: bool, lm_head: bool
) -> Operations:
    """Blocks first..last-1, with the embedding in front of block 0, and the LM head behind where asked for.

    `trains` is whether a gradient crosses the cut: of a head, that anything flows back at all; of a body, that the
    gradient of its input is wanted.
    """
    head = first == 0
    total, below = _entrance(shape, batch) if head else NOTHING, not head and trains
    for _ in range(first, last):
        total += block_operations(shape, adapter, batch, below)
        below = below or adapter.elements(shape) > 0
    if lm_head:
        total += _lm_head(shape, batch, below)
    return Operations(total.forward, 0) if head and not trains else total


def cut_bytes(shape: ModelShape, positions: int, itemsize: int) -> int:
    """An activation (positions, d) at the cut, and likewise its gradient."""
    return positions * shape.hidden * itemsize


def adapter_elements(shape: ModelShape, adapter: Adapter, first: int, last: int) -> int:
    return (last - first) * adapter.elements(shape)


def part_parameters(shape: ModelShape, first: int, last: int, *, lm_head: bool) -> int:
    """Frozen weights of a part; a tied LM head away from the embedding brings the matrix along."""
    block = sum(linear.parameters for linear in shape.block.linears) + shape.block.norm_parameters
    count = (last - first) * block + (shape.embedding_parameters if first == 0 else 0)
    if lm_head:
        tied_away = shape.embedding_matrix if first > 0 and not shape.lm_head_parameters else 0
        count += shape.final_parameters + shape.lm_head_parameters + tied_away
    return count


def _linear(linear: Linear, rank: int, positions: int, input_trains: bool) -> Operations:
    whole = 2 * positions * linear.inputs * linear.outputs
    down, up = 2 * positions * rank * linear.inputs, 2 * positions * rank * linear.outputs
    # Of B and of its input, and of A; through A and through the frozen weight only where somebody below wants it.
    backward = 2 * up + down + (whole + down if input_trains else 0)
    return Operations(whole + down + up, backward)


def _entrance(shape: ModelShape, batch: Batch) -> Operations:
    return Operations(_linear(shape.entrance, 0, batch.positions, False).forward, 0) if shape.entrance else NOTHING


def _lm_head(shape: ModelShape, batch: Batch, input_trains: bool) -> Operations:
    total = _linear(shape.exit, 0, batch.positions, input_trains) if shape.exit else NOTHING
    width = shape.exit.outputs if shape.exit else shape.hidden
    rows = batch.positions if batch.targets is None else batch.targets
    return total + _linear(Linear("lm_head", width, shape.vocabulary, False), 0, rows, input_trains)
