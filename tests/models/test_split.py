"""Head and body together compute exactly what the whole model computes, and hold only their own weights."""

from pathlib import Path

import pytest
import torch
import transformers

from splitcom_dist.config.schema import LoraConfig
from splitcom_dist.errors import UserError
from splitcom_dist.models.block_range import AbsentBlock
from splitcom_dist.models.families import decoder_of, family_of
from splitcom_dist.models.lora import (
    adapter_parameters,
    attach_lora,
    flatten,
    insert_lora,
    is_in_part,
    peft_config,
    save_adapter,
    unflatten_into,
)
from splitcom_dist.models.sources import find_model
from splitcom_dist.models.split import (
    blocks_at,
    body,
    check_cut,
    forward_blocks,
    head,
    load_part,
    outline_part,
    resident_bytes,
    whole,
)

FAMILIES = ["gpt2", "llama", "llama_tied", "qwen2", "mistral", "opt", "gpt_neox"]
IDS = torch.randint(1, 300, (3, 9), generator=torch.Generator().manual_seed(1))


def parts(folder: Path, cut: int, *, trained: bool = True):  # type: ignore[no-untyped-def]
    source = find_model(str(folder))
    made = [
        attach_lora(load_part(source, part, torch.float32), LoraConfig(rank=4), seed=7)
        for part in (whole(4), head(cut), body(cut, 4))
    ]
    for model in made if trained else []:
        for name, parameter in adapter_parameters(model).items():
            if ".lora_B." in name:  # zero at first, which would hide a misplaced adapter
                generator = torch.Generator().manual_seed(sum(map(ord, name)))
                parameter.data.normal_(0, 0.3, generator=generator)
    return source, *made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cut", [1, 3])
def test_head_then_body_is_the_whole_model(family: str, cut: int, model_folders: dict[str, Path]) -> None:
    _, model, first, second = parts(model_folders[family], cut)
    with torch.no_grad():
        expected = model(input_ids=IDS).logits
        activation = forward_blocks(first, input_ids=IDS)
        found = second.lm_head(forward_blocks(second, activation=activation))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_deep_head_and_a_deep_body_serve_every_cut(family: str, cut: int, model_folders: dict[str, Path]) -> None:
    """The head of the deepest cut and the body of the shallowest one: blocks on the other side are passed by."""
    _, model, first, _ = parts(model_folders[family], 3)
    _, _, _, second = parts(model_folders[family], 1)
    before = [list(part.state_dict()) for part in (first, second)]
    expected = model(input_ids=IDS).logits
    activation = forward_blocks(first, input_ids=IDS, last=cut)
    cut_off = activation.detach().requires_grad_()
    found = second.lm_head(forward_blocks(second, activation=cut_off, first=cut))
    assert torch.equal(found, expected)
    expected.square().sum().backward()
    found.square().sum().backward()
    activation.backward(cut_off.grad)
    for part, trained in ((first, range(cut)), (second, range(cut, 4))):
        for name, parameter in adapter_parameters(part).items():
            block = next(int(word) for word in name.split(".") if word.isdecimal())
            gradient, of_whole = parameter.grad, adapter_parameters(model)[name].grad
            assert (gradient is not None) == (block in trained), name
            assert gradient is None or (of_whole is not None and torch.allclose(gradient, of_whole, 1e-4, 1e-5)), name
    assert [list(part.state_dict()) for part in (first, second)] == before, "every block is back in its place"


@pytest.mark.parametrize("family", FAMILIES)
def test_right_padding_does_not_reach_real_positions(family: str, model_folders: dict[str, Path]) -> None:
    _, _, first, second = parts(model_folders[family], 2)
    padded = torch.cat([IDS, torch.zeros(3, 4, dtype=torch.int64)], dim=1)
    with torch.no_grad():
        short = forward_blocks(second, activation=forward_blocks(first, input_ids=IDS))
        long = forward_blocks(second, activation=forward_blocks(first, input_ids=padded))
    assert (long[:, : IDS.shape[1]] - short).norm() < 1e-5 * short.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_each_part_holds_only_its_own_weights(family: str, model_folders: dict[str, Path]) -> None:
    source, model, first, second = parts(model_folders[family], 1)
    layout = family_of(source.config.model_type)
    for part, own in ((first, {0}), (second, {1, 2, 3})):
        blocks = getattr(decoder_of(part, layout), layout.blocks)
        assert {index for index, block in enumerate(blocks) if not isinstance(block, AbsentBlock)} == own
    names = dict(first.named_parameters())
    assert not any("lm_head" in name or ("norm" in name and ".layers." not in name) for name in names)
    embedding = resident_bytes(getattr(decoder_of(model, layout), layout.embedding))
    shared = embedding if source.config.tie_word_embeddings else 0  # the LM head is the embedding then
    assert resident_bytes(first) + resident_bytes(second) <= resident_bytes(model) + shared + 64
    for part, outline in ((first, head(1)), (second, body(1, 4))):
        adapter = sum(parameter.nbytes for parameter in adapter_parameters(part).values())
        assert resident_bytes(outline_part(source, outline)) == resident_bytes(part) - adapter


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_of_the_parts_are_those_of_the_whole(family: str, model_folders: dict[str, Path]) -> None:
    source, model, first, second = parts(model_folders[family], 3, trained=False)
    of_whole, of_parts = adapter_parameters(model), adapter_parameters(first) | adapter_parameters(second)
    assert set(of_whole) == set(of_parts)
    assert all(torch.equal(of_whole[name], tensor) for name, tensor in of_parts.items())
    in_head = [name for name in of_whole if is_in_part(name, source.config.model_type, head(3))]
    assert in_head == list(adapter_parameters(first)), "both ends flatten in the same order"
    assert not torch.equal(of_whole[in_head[0]], torch.zeros_like(of_whole[in_head[0]]))


def test_flat_vectors_round_trip(model_folders: dict[str, Path]) -> None:
    _, model, _, _ = parts(model_folders["gpt2"], 2)
    tensors = list(adapter_parameters(model).values())
    vector = flatten(tensors)
    unflatten_into(torch.arange(len(vector)).float(), tensors)
    assert torch.equal(flatten(tensors), torch.arange(len(vector)).float())
    with pytest.raises(ValueError, match="elements"):
        unflatten_into(torch.zeros(len(vector) + 1), tensors)


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_adapter_loads_with_peft(family: str, model_folders: dict[str, Path], tmp_path: Path) -> None:
    import peft

    source, model, _, _ = parts(model_folders[family], 2)
    config = peft_config(source.config.model_type, LoraConfig(rank=4), str(source.folder))
    save_adapter(tmp_path, adapter_parameters(model), config)
    base = transformers.AutoModelForCausalLM.from_pretrained(source.folder)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cuts", [{1}, {3}, {1, 2}], ids=str)
def test_a_lower_rank_at_the_cut(family: str, cuts: set[int], model_folders: dict[str, Path], tmp_path: Path) -> None:
    """It begins with the first rows of the full rank's, is scaled by alpha over itself, and peft loads it."""
    import peft

    source, lower = find_model(str(model_folders[family])), {cut - 1 for cut in cuts} | cuts
    assert blocks_at(cuts) == lower
    lora = LoraConfig(rank=4, cut_rank=2, alpha=16.0)
    full = attach_lora(load_part(source, whole(4), torch.float32), LoraConfig(rank=4), seed=7)
    model = attach_lora(load_part(source, whole(4), torch.float32), lora, seed=7, at_cut=lower)
    layout = family_of(source.config.model_type)
    for index, block in enumerate(getattr(decoder_of(model, layout), layout.blocks)):
        for module in block.modules():
            if isinstance(module, peft.tuners.lora.LoraLayer):
                rank = 2 if index in lower else 4
                assert (module.r["default"], module.scaling["default"]) == (rank, 16.0 / rank)
    others = adapter_parameters(full)
    for name, parameter in adapter_parameters(model).items():
        if ".lora_A." in name:
            assert torch.equal(parameter, others[name][: len(parameter)]), name
        else:
            parameter.data.normal_(0, 0.3, generator=torch.Generator().manual_seed(sum(map(ord, name))))
    save_adapter(
        tmp_path, adapter_parameters(model), peft_config(source.config.model_type, lora, str(source.folder), lower)
    )
    base = transformers.AutoModelForCausalLM.from_pretrained(source.folder)
    with torch.no_grad():
        loaded = peft.PeftModel.from_pretrained(base, tmp_path)
        assert torch.equal(loaded(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_block_of_two_digits_is_not_taken_for_its_first(model_folders: dict[str, Path]) -> None:
    source = find_model(str(model_folders["gpt2"]))
    source.config.num_hidden_layers = 13
    model = outline_part(source, whole(13))
    insert_lora(model, LoraConfig(rank=4, cut_rank=2), at_cut={0, 1})
    insert_lora(outline_part(source, head(1)), LoraConfig(rank=4, cut_rank=2), at_cut={0, 1})  # has one of the two
    ranks = [parameter.shape[0] for name, parameter in adapter_parameters(model).items() if ".lora_A." in name]
    assert sorted(ranks) == [2, 2, *[4] * 11]


def test_which_blocks_are_at_the_cut_must_be_said(model_folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="which blocks"):
        peft_config("gpt2", LoraConfig(cut_rank=2), "")


def test_dropout_of_the_frozen_blocks_is_off_unless_asked_for(model_folders: dict[str, Path]) -> None:
    """The shipped configurations of GPT-2 and OPT ask for 0.1, which would make every epoch's activations new."""
    for family in ("gpt2", "opt"):
        for rate, same in ((0.0, True), (0.3, False)):
            model = load_part(find_model(str(model_folders[family]), rate), head(2), torch.float32)
            with torch.no_grad():
                first, second = forward_blocks(model, input_ids=IDS), forward_blocks(model, input_ids=IDS)
            assert torch.equal(first, second) is same


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_hub_models_are_downloaded_once_in_the_better_format(
    weights: str, model_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the hub that delivers what was asked for; OPT's repositories have no safetensors."""
    hub, local = model_folders["opt"], tmp_path / "snapshot"
    state = transformers.AutoModelForCausalLM.from_pretrained(hub).state_dict()
    asked: list[list[str]] = []

    def deliver(name: str, allow_patterns: list[str]) -> str:
        assert name == "facebook/opt-125m"
        asked.append(allow_patterns)
        local.mkdir(exist_ok=True)
        for file in hub.iterdir():
            if file.suffix == ".json":
                (local / file.name).write_bytes(file.read_bytes())
        if weights == "model.safetensors":
            (local / weights).write_bytes((hub / weights).read_bytes())
        elif any("bin" in pattern for pattern in allow_patterns):
            torch.save(state, local / weights)
        return str(local)

    monkeypatch.setattr("splitcom_dist.models.sources.snapshot_download", deliver)
    part = load_part(find_model("facebook/opt-125m"), head(2), torch.float32)
    assert len(asked) == (1 if weights == "model.safetensors" else 2)
    expected = load_part(find_model(str(hub)), head(2), torch.float32)
    with torch.no_grad():
        assert torch.equal(forward_blocks(part, input_ids=IDS), forward_blocks(expected, input_ids=IDS))


@pytest.mark.parametrize("cut", [0, 4, 9])
def test_a_cut_outside_the_model_names_the_range(cut: int) -> None:
    with pytest.raises(UserError, match="choose 1 to 3"):
        check_cut(cut, 4)


def test_unsupported_family_names_the_supported_ones(tmp_path: Path) -> None:
    transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=2).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'bloom' is not supported; supported are gpt2"):
        find_model(str(tmp_path))


def test_unknown_models_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no such directory"):
        find_model("./nowhere")
    with pytest.raises(UserError, match=r"model\.name="):
        find_model(str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="neither a local directory nor to be had from the hub"):
        find_model("nobody/nothing")


def test_unknown_lora_target_is_named(model_folders: dict[str, Path]) -> None:
    source = find_model(str(model_folders["gpt2"]))
    with pytest.raises(UserError, match=r"lora\.target_modules"):
        attach_lora(load_part(source, head(1), torch.float32), LoraConfig(target_modules=["nothing"]), 0)
