"""What was merged into weights as an adapter that any reader of the PEFT format can load beside the original model.

Its ranks are those of the merged changes, one a layer: after n rounds of K clients of rank r up to n K r, and at most
the smaller side of the weight, where the adapter is larger than the weight itself. Exact but for rounding: what is left
out is below float32's precision of the weight. With `model.dtype=bfloat16` the run itself computes with rounded sums.
"""

import copy
from collections.abc import Mapping

import peft
from torch import Tensor

from splitcom_dist.aggregate.svd import factored


def merged_adapter(
    parameters: Mapping[str, Tensor], config: peft.LoraConfig, changes: Mapping[str, tuple[Tensor, float]]
) -> tuple[dict[str, Tensor], peft.LoraConfig]:
    """The adapter `parameters` of `config`, with the factors of `changes` (`MergedWeights.changes`) for those of their
    layers, which have just begun anew: their B's are zero."""
    tensors, ranks = dict(parameters), dict[str, int]()
    for layer, (change, precision) in changes.items():
        factors = factored(change, precision)
        ranks[layer] = factors.rank
        tensors[f"{layer}.lora_A.default.weight"] = factors.a.float()
        tensors[f"{layer}.lora_B.default.weight"] = factors.b.float()
    whole = copy.deepcopy(config)
    # Patterns are tried in turn: a layer's own name goes before the expression for all blocks at a cut.
    whole.rank_pattern = ranks | dict(config.rank_pattern)
    whole.alpha_pattern = ranks | dict(config.alpha_pattern)  # scaled by alpha / rank: by 1
    return tensors, whole
