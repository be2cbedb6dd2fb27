"""The workload of every family against torch's counter, real parameters and real saved tensors."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from splitcom_dist.config.schema import LoraConfig
from splitcom_dist.models.lora import adapter_parameters, attach_lora
from splitcom_dist.models.loss import token_loss
from splitcom_dist.models.sources import ModelSource, find_model
from splitcom_dist.models.split import Part, body, forward_blocks, head, load_part, resident_bytes, whole
from splitcom_dist.plan.blocks import model_shape
from splitcom_dist.plan.saved import count_saved, saved_bytes
from splitcom_dist.plan.workload import Adapter, Batch, adapter_elements, cut_bytes, part_operations, part_parameters

FAMILIES = ["gpt2", "llama", "llama_tied", "qwen2", "mistral", "opt", "gpt_neox"]
BATCH = Batch(samples=3, length=16)
EVERYWHERE = {
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "opt": ["q_proj", "k_proj", "out_proj", "fc1", "fc2"],
    "gpt_neox": ["query_key_value", "dense", "dense_h_to_4h"],
}
LLAMA_EVERYWHERE = ["q_proj", "o_proj", "gate_proj", "down_proj"]


def part_of(folder: Path, part: Part, lora: LoraConfig) -> tuple[ModelSource, Any]:
    source = find_model(str(folder))
    return source, attach_lora(load_part(source, part, torch.float32), lora, seed=0)


def counted(model: Any, part: Part, batch: Batch, hidden: int, trains: bool) -> tuple[int, int]:
    """Forward and backward of one batch, as torch counts them; attention in the open, or its counter sees none."""
    ids = torch.randint(1, 300, (batch.samples, batch.length)) if part.first == 0 else None
    activation = torch.randn(batch.samples, batch.length, hidden, requires_grad=trains) if part.first else None
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward, torch.set_grad_enabled(trains or part.first > 0):
            output = forward_blocks(model, input_ids=ids, activation=activation)
            if part.lm_head:
                each = (batch.targets or batch.positions) // batch.samples
                targets = [torch.ones(each, dtype=torch.int64)] * batch.samples
                lengths = torch.full((batch.samples,), batch.length)
                output = token_loss(model, output.flatten(0, 1), lengths, targets)
        with FlopCounterMode(display=False) as backward:
            if output.requires_grad:
                output.backward(torch.ones_like(output))
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("everywhere", [False, True], ids=["attention", "everywhere"])
@pytest.mark.parametrize("trains", [True, False], ids=["trains", "frozen"])
@pytest.mark.parametrize("part", [head(1), head(2), body(1, 4), whole(4)], ids=["head1", "head2", "body", "whole"])
def test_operations_are_those_that_torch_counts(
    family: str, everywhere: bool, trains: bool, part: Part, model_folders: dict[str, Path]
) -> None:
    targets = EVERYWHERE.get(family, LLAMA_EVERYWHERE) if everywhere else None
    batch = Batch(3, 16, targets=12)
    source, model = part_of(model_folders[family], part, LoraConfig(rank=4, target_modules=targets))
    shape = model_shape(source.config)
    found = part_operations(
        shape, Adapter(4, targets), batch, part.first, part.last, trains=trains, lm_head=part.lm_head
    )
    forward, backward = counted(model, part, batch, shape.hidden, trains)
    assert found.forward == pytest.approx(forward, rel=0.02)
    assert found.backward == pytest.approx(backward, rel=0.02)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("part", [head(1), body(1, 4), whole(4)], ids=["head", "body", "whole"])
def test_parameters_and_bytes_are_those_of_the_tensors(family: str, part: Part, model_folders: dict[str, Path]) -> None:
    source, model = part_of(model_folders[family], part, LoraConfig(rank=4))
    shape = model_shape(source.config)
    adapters = sum(parameter.numel() for parameter in adapter_parameters(model).values())
    assert adapter_elements(shape, Adapter(4), part.first, part.last) == adapters
    parameters = part_parameters(shape, part.first, part.last, lm_head=part.lm_head)
    assert parameters == sum(parameter.numel() for parameter in model.parameters()) - adapters
    assert 4 * (parameters + adapters) == pytest.approx(resident_bytes(model), rel=0.02)
    if part.first == 0 and not part.lm_head:
        activation = forward_blocks(model, input_ids=torch.ones(3, 16, dtype=torch.int64))
        activation.retain_grad()
        activation.sum().backward()
        assert activation.grad is not None
        assert cut_bytes(shape, 48, 4) == activation.nbytes == activation.grad.nbytes


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("trains", [True, False], ids=["trains", "frozen"])
@pytest.mark.parametrize("part", [head(3), body(1, 4)], ids=["head", "body"])
def test_what_waits_for_the_backward_pass_is_what_autograd_keeps(
    family: str, trains: bool, part: Part, model_folders: dict[str, Path]
) -> None:
    batch, lora = Batch(3, 16, targets=12), LoraConfig(rank=4)
    source, model = part_of(model_folders[family], part, lora)
    with torch.set_grad_enabled(trains or part.first > 0):
        expected = count_saved(model, part, batch, trains, source.hidden_size, torch.float32)
    found = saved_bytes(source, lora, torch.float32, part, batch, trains=trains)
    assert found == pytest.approx(expected, rel=0.02)
