"""Changes that are merged into frozen weights: what the model computes, what is kept, and what is exported."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitcom_dist.aggregate.factors import Factors, split
from splitcom_dist.config.schema import LoraConfig
from splitcom_dist.errors import UserError
from splitcom_dist.models.lora import adapter_parameters, attach_lora, peft_config, unflatten_into
from splitcom_dist.models.merged_adapter import merged_adapter
from splitcom_dist.models.merging import MergedWeights
from splitcom_dist.models.sources import find_model
from splitcom_dist.models.split import head, load_part, whole

LORA = LoraConfig(rank=4, cut_rank=2, alpha=8.0)
IDS = torch.arange(24).reshape(2, 12)


def adapted(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, list[nn.Parameter]]:
    """A head of two blocks, the second at the cut."""
    model = attach_lora(load_part(find_model(str(folder)), head(2), dtype), LORA, seed=1, at_cut=[1, 2])
    return model, list(adapter_parameters(model).values())


def learnt(parameters: list[nn.Parameter], seed: int) -> list[Factors]:
    """Factors that training might have come to."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [parameter.shape for parameter in parameters]
    return split(0.1 * torch.randn(sum(shape.numel() for shape in shapes), generator=generator), shapes)


def put(factors: list[Factors] | Tensor, parameters: list[nn.Parameter]) -> None:
    flat = factors if isinstance(factors, Tensor) else torch.cat([m.flatten() for f in factors for m in (f.a, f.b)])
    unflatten_into(flat, parameters)


@torch.no_grad()
def output(model: Any) -> Tensor:
    return model.base_model(input_ids=IDS, use_cache=False).last_hidden_state  # type: ignore[no-any-return]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_merged_adapter_computes_what_it_did_beside_the_weights(family: str, model_folders: dict[str, Path]) -> None:
    model, parameters = adapted(model_folders[family])
    untrained = output(model)
    factors = learnt(parameters, 1)
    put(factors, parameters)
    beside = output(model)
    fresh = MergedWeights([model], parameters, seed=1).merge(factors, step=4)
    put(fresh, parameters)
    assert (output(model) - beside).norm() < 1e-5 * (beside - untrained).norm()


def test_factors_begin_anew_after_every_merge(model_folders: dict[str, Path]) -> None:
    model, parameters = adapted(model_folders["llama"])
    merged, shapes = MergedWeights([model], parameters, seed=1), [parameter.shape for parameter in parameters]
    first, again, later = (merged.merge(learnt(parameters, 1), step) for step in (4, 4, 9))
    other = MergedWeights([model], parameters, seed=2).merge(learnt(parameters, 1), 4)
    assert torch.equal(first, again)
    for each in zip(*(split(flat, shapes) for flat in (first, later, other)), strict=True):
        assert not any(factors.b.any() for factors in each)
        assert not torch.equal(each[0].a, each[1].a) and not torch.equal(each[0].a, each[2].a)
        assert each[0].a.abs().max() <= each[0].a.shape[1] ** -0.5, "the range that peft begins with"


def test_small_changes_add_up_in_bfloat16(model_folders: dict[str, Path]) -> None:
    model, parameters = adapted(model_folders["llama"], torch.bfloat16)
    merged = MergedWeights([model], parameters, seed=1)
    before = merged.values
    tiny = [Factors(1e-2 * each.a, 1e-2 * each.b) for each in learnt(parameters, 1)]
    for step in range(50):
        merged.merge(tiny, step)
    expected = torch.cat(
        [(50 * scale * f.product).flatten() for f, scale in zip(tiny, [2.0] * 2 + [4.0] * 2, strict=True)]
    )
    assert (merged.values - before - expected).norm() < 1e-2 * expected.norm()
    rounded = torch.cat([layer.base_layer.weight.flatten() for layer in adapted_layers(model)])
    assert rounded.dtype == torch.bfloat16 and torch.equal(rounded, merged.values.bfloat16())


def adapted_layers(model: Any) -> list[Any]:
    return [module for name, module in sorted(model.named_modules()) if hasattr(module, "lora_A") and module.lora_A]


def test_merged_weights_are_kept_bit_for_bit(model_folders: dict[str, Path]) -> None:
    (one, parameters), (other, theirs) = adapted(model_folders["gpt2"]), adapted(model_folders["gpt2"])
    merged, kept = MergedWeights([one], parameters, seed=1), MergedWeights([other], theirs, seed=1)
    kept.load({name: tensor.clone() for name, tensor in merged.state().items()})
    assert torch.equal(kept.values, merged.values), "nothing is merged yet"
    merged.merge(learnt(parameters, 1), 0)
    kept.load({name: tensor.clone() for name, tensor in merged.state().items()})
    merged.merge(learnt(parameters, 2), 1)
    kept.merge(learnt(parameters, 2), 1)
    assert torch.equal(kept.values, merged.values)
    assert torch.equal(output(one), output(other))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_is_exported_has_the_rank_of_what_was_merged(family: str, model_folders: dict[str, Path]) -> None:
    model, parameters = adapted(model_folders[family])
    merged = MergedWeights([model], parameters, seed=1)
    for step in range(3):
        put(merged.merge(learnt(parameters, step), step), parameters)
    source = find_model(str(model_folders[family]))
    changes = merged.changes([load_part(source, head(2), torch.float32)])
    config = peft_config(source.config.model_type, LORA, "", [1, 2])
    tensors, told = merged_adapter(adapter_parameters(model), config, changes)
    assert [told.rank_pattern[layer] for layer in changes] == [12 if ".0." in layer else 6 for layer in changes]
    assert list(told.rank_pattern)[-1] == next(iter(config.rank_pattern)), "a layer's own rank is found first"
    for layer, (change, _) in changes.items():
        b, a = (tensors[f"{layer}.lora_{end}.default.weight"] for end in "BA")
        assert told.alpha_pattern[layer] == len(a) == told.rank_pattern[layer]
        assert (b.double() @ a.double() - change).norm() < 1e-5 * change.norm()


@pytest.mark.parametrize(
    ("targets", "reason"),
    [(["wte"], "merges into linear layers only"), (["lm_head"], "the weight of lm_head is another layer's too")],
)
def test_weights_that_a_product_cannot_join_are_refused(
    targets: list[str], reason: str, model_folders: dict[str, Path]
) -> None:
    source = find_model(str(model_folders["gpt2"]))  # ties its LM head
    lora = LoraConfig(rank=4, target_modules=targets)
    model = attach_lora(load_part(source, whole(source.block_count), torch.float32), lora, seed=1)
    with pytest.raises(UserError, match=reason):
        MergedWeights([model], list(adapter_parameters(model).values()), seed=1)
