"""Whether a model computes the same in two parts as in one: python check_family.py EXTENSION.py MODEL CUT_LAYER."""

import sys

import torch

from splitcom_dist.config.schema import LoraConfig
from splitcom_dist.extensions import load_extensions
from splitcom_dist.models.lora import adapter_parameters, attach_lora
from splitcom_dist.models.sources import find_model
from splitcom_dist.models.split import body, forward_blocks, head, load_part, whole


def check(extension: str, name: str, cut_layer: int) -> None:
    load_extensions([extension])
    source = find_model(name)
    parts = whole(source.block_count), head(cut_layer), body(cut_layer, source.block_count)
    model, first, second = (attach_lora(load_part(source, part, torch.float32), LoraConfig(), 0) for part in parts)
    ids = torch.randint(source.vocabulary, (2, 16))
    with torch.no_grad():
        activation = forward_blocks(first, input_ids=ids)
        logits = second.lm_head(forward_blocks(second, activation=activation))
        assert torch.equal(logits, model(input_ids=ids).logits), "the parts compute something else than the whole"
    names = [set(adapter_parameters(part)) for part in (model, first, second)]
    assert names[0] == names[1] | names[2], "the parts' adapters are not those of the whole"
    assert not names[1] & names[2], "a block is in both parts"
    print(f"{source.config.model_type}: {cut_layer} + {source.block_count - cut_layer} blocks compute what all do")


if __name__ == "__main__":
    check(sys.argv[1], sys.argv[2], int(sys.argv[3]))
