"""How far zero padding, truncated SVD and stacking are from the exact mean of clients' products, by their ranks.

    python benchmarks/rank_aggregation.py

Three clients with unequal shards (Dirichlet by length) train the embedded model's first blocks from one start, each at
its own rank, for one round; what is averaged is their change, weighted by target tokens. Some minutes on two cores;
prints the table and writes it to benchmarks/results/rank_aggregation.md.
"""

import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from torch.nn import functional

from splitcom_dist.aggregate.factors import Factors, truncated
from splitcom_dist.aggregate.ranks import Ranks
from splitcom_dist.aggregate.stack import stack
from splitcom_dist.aggregate.svd import svd
from splitcom_dist.aggregate.zero_pad import zero_pad
from splitcom_dist.config.files import load_config
from splitcom_dist.config.schema import Config
from splitcom_dist.data.batching import collate
from splitcom_dist.data.tokens import Sample
from splitcom_dist.models.lora import adapter_parameters, attach_lora, flatten, is_in_part, unflatten_into
from splitcom_dist.models.sources import find_model
from splitcom_dist.models.split import head, load_part, whole
from splitcom_dist.shards import training_shards
from splitcom_dist.training import AdapterOptimizer

RESULT = Path(__file__).parent / "results" / "rank_aggregation.md"
SEEDS, STEPS, RANK = (0, 1, 2), 10, 8
RANKS = ((8, 8, 8), (8, 4, 2))
SETTINGS = [
    "fed.clients=3",
    "data.train_samples=300",
    "train.batch_size=4",
    "data.partition=dirichlet_length",
    "data.alpha=0.5",
]
Clients = Sequence[Factors]
METHODS: dict[str, Callable[[Clients, Sequence[float]], Factors]] = {
    "zero_pad": lambda clients, weights: zero_pad(clients, weights, RANK),
    "svd": lambda clients, weights: svd(clients, weights, RANK),
    "svd at the sum of the ranks": lambda clients, weights: svd(clients, weights, sum(each.rank for each in clients)),
    "stack": stack,
    "zero_pad, what rank 4 is given": lambda clients, weights: truncated(zero_pad(clients, weights, RANK), 4),
    "svd, what rank 4 is given": lambda clients, weights: truncated(svd(clients, weights, RANK), 4),
    "zero_pad, what rank 2 is given": lambda clients, weights: truncated(zero_pad(clients, weights, RANK), 2),
    "svd, what rank 2 is given": lambda clients, weights: truncated(svd(clients, weights, RANK), 2),
}


def main() -> None:
    torch.set_num_threads(1)
    errors: dict[tuple[str, tuple[int, ...], str], list[float]] = {}
    for seed in SEEDS:
        for ranks in RANKS:
            for kind, make in (("trained", trained), ("random", random)):
                clients, weights = make(ranks, seed)
                for name, method in METHODS.items():
                    errors.setdefault((kind, ranks, name), []).append(error(clients, weights, method))
            print(f"seed {seed}, ranks {ranks} done", flush=True)
    text = report(errors)
    print(text)
    RESULT.write_text(text + "\n")


def trained(ranks: Sequence[int], seed: int) -> tuple[list[list[Factors]], list[float]]:
    """Every client's factors after so many steps from the common start, and its target tokens."""
    config = load_config([], [*SETTINGS, f"train.seed={seed}"])
    source = find_model(config.model.name)
    shards = training_shards(config, source.tokenizer(), range(len(ranks)))
    model = attach_lora(load_part(source, whole(source.block_count), torch.float32), config.lora, seed)
    of_clients = head(config.model.cut_layer)
    named = adapter_parameters(model).items()
    parameters = [p for name, p in named if is_in_part(name, source.config.model_type, of_clients)]
    start, held = flatten(parameters), Ranks(list(ranks), [parameter.shape for parameter in parameters])
    clients, weights = [], []
    for client in range(len(ranks)):
        unflatten_into(held.share(start, client), parameters)
        weights.append(float(train(model, parameters, shards[client], config)))
        clients.append(held.unpacked(held.packed(flatten(parameters), client), client))
    return clients, weights


def train(model: torch.nn.Module, parameters: list[torch.nn.Parameter], samples: list[Sample], config: Config) -> int:
    """One round of a client; returns its target tokens."""
    optimizer, count = AdapterOptimizer(parameters, config.train, STEPS), 0
    for step in range(STEPS):
        size = config.train.batch_size
        batch = collate([samples[(step * size + index) % len(samples)] for index in range(size)])
        targets = torch.cat(batch.targets)
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
        rows = zip(logits, batch.lengths.tolist(), batch.targets, strict=True)
        predicted = torch.cat([row[length - len(own) : length] for row, length, own in rows])
        functional.cross_entropy(predicted, targets).backward()
        optimizer.step()
        count += len(targets)
    return count


def random(ranks: Sequence[int], seed: int) -> tuple[list[list[Factors]], list[float]]:
    """Gaussian factors of one weight (192, 64), and weights alike: nothing in common between clients."""
    generator = torch.Generator().manual_seed(seed)
    clients = []
    for rank in ranks:
        a, b = torch.randn(rank, 64, generator=generator), torch.randn(192, rank, generator=generator)
        clients.append([Factors(a, b)])
    return clients, [1.0] * len(ranks)


def error(
    clients: Sequence[Clients], weights: Sequence[float], method: Callable[[Clients, Sequence[float]], Factors]
) -> float:
    """Distance from the exact mean of products over its norm, both over all weights of the model (Frobenius)."""
    missed, norm = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for own in zip(*clients, strict=True):
        exact = exact_mean(own, weights)
        found = method(own, weights)
        missed += (found.b.double() @ found.a.double() - exact).square().sum()
        norm += exact.square().sum()
    return float((missed / norm).sqrt())


def exact_mean(clients: Clients, weights: Sequence[float]) -> Tensor:
    """The products themselves, in float64."""
    total, terms = sum(weights), []
    for client, weight in zip(clients, weights, strict=True):
        terms.append(weight / total * client.b.double() @ client.a.double())
    return torch.stack(terms).sum(0)


def report(errors: dict[tuple[str, tuple[int, ...], str], list[float]]) -> str:
    columns = [(kind, ranks) for kind in ("trained", "random") for ranks in RANKS]
    titles = [f"{kind}, ranks {', '.join(map(str, ranks))}" for kind, ranks in columns]
    lines = [
        "# Distance from the exact mean of products",
        "",
        f"Relative Frobenius error of B A over the client's blocks: mean of seeds {', '.join(map(str, SEEDS))}, in "
        f"brackets the least and the most. Trained: the embedded model, 3 clients, one round of {STEPS} steps. Random: "
        f"Gaussian factors (192, 64), equal weights. The adapter that all share has rank {RANK}. torch "
        f"{version('torch')}, Python {platform.python_version()}.",
        "",
        "| | " + " | ".join(titles) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for name in METHODS:
        cells = [errors[kind, ranks, name] for kind, ranks in columns]
        lines.append(f"| {name} | " + " | ".join(f"{mean(c):.2g} ({min(c):.2g}-{max(c):.2g})" for c in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
