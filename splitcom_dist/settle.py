"""The end of a run: totals of all ranks meet, logs are joined, the adapter is exported, the table is printed."""

import dataclasses
import json
import logging
import resource
from collections.abc import Iterator, Mapping, Sequence

import torch

from splitcom_dist.models.lora import adapter_parameters, peft_config, save_adapter
from splitcom_dist.models.merged_adapter import merged_adapter
from splitcom_dist.models.split import cut_blocks, load_part, parts_held, resident_bytes, trained_by_clients
from splitcom_dist.roles.aggregator import AggregatorRole
from splitcom_dist.roles.build import Role
from splitcom_dist.roles.context import Context
from splitcom_dist.run_directory import RunDirectory
from splitcom_dist.telemetry.hdf5 import read_kept
from splitcom_dist.telemetry.join import join
from splitcom_dist.telemetry.ledger import named_totals
from splitcom_dist.telemetry.summary import RankMemory, Summary, print_table, write

log = logging.getLogger(__name__)


def settle(context: Context, role: Role, directory: RunDirectory, seconds: float) -> None:
    """Every rank calls this once its log is closed; the aggregator writes what remains of the run."""
    world = context.world
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    memory, ledger = [resident_bytes(role.holds), peak], context.ledger
    world.announce(f"books/{world.rank}", json.dumps([ledger.totals().tolist(), memory, ledger.turns_left_out]))
    if isinstance(role, AggregatorRole):
        everybody = range(world.layout.world_size)
        books = {rank: json.loads(text) for rank, text in world.hear_all("books", everybody, "the last books").items()}
        for rank in set(everybody) - set(books):  # lost, and not back: what its log has kept
            kept = read_kept(directory.rank_telemetry(rank))[1].tolist()
            books[rank] = kept or [0] * len(ledger.totals()), (0, 0), 0
        totals = torch.tensor([books[rank][0] for rank in everybody]).sum(0)
        left_out = sum(books[rank][2] for rank in everybody)
        _write(context, role, directory, seconds, totals, [books[rank][1] for rank in everybody], left_out)


def _write(
    context: Context,
    role: AggregatorRole,
    directory: RunDirectory,
    seconds: float,
    totals: torch.Tensor,
    memory: Sequence[Sequence[int]],
    turns_left_out: int,
) -> None:
    config, layout = context.config, context.world.layout
    for warning in join(directory.telemetry, directory.root / "run.h5", layout.world_size):
        log.warning(warning)
    base = config.model.name if config.model.name != "tiny" else str(context.source.folder)
    at_cut = cut_blocks(config, context.source.block_count)
    adapter = peft_config(context.source.config.model_type, config.lora, base, at_cut)
    parameters: Mapping[str, torch.Tensor] = adapter_parameters(role.model)
    if role.merged is not None:
        parameters, adapter = merged_adapter(parameters, adapter, role.merged.changes(_untrained(context)))
    save_adapter(directory.adapter, parameters, adapter)
    links, others = named_totals(totals)
    assert role.untuned is not None and role.tuned is not None
    summary = Summary(
        ppl=role.tuned.ppl,
        untuned_ppl=role.untuned.ppl,
        seconds=seconds,
        tokens=others["tokens"],
        links={name: counts for name, counts in links.items() if counts["raw_padded_bytes"]},
        label_bytes=others["label_bytes"],
        adapter_bytes=others["adapter_bytes"],
        control_bytes=others["control_bytes"],
        baseline_dtype=config.telemetry.baseline_dtype,
        ranks=[RankMemory(layout.name_of(rank), weights, resident) for rank, (weights, resident) in enumerate(memory)],
        config=dataclasses.asdict(config),
        turns_left_out=turns_left_out,
    )
    write(summary, directory.summary)
    title = f"{config.data.name} · {config.model.name} · codec {config.codec.name} · {layout.clients} clients"
    print_table(summary, title)
    print(f"\n{directory.root}", flush=True)


def _untrained(context: Context) -> Iterator[torch.nn.Module]:
    """What clients train, read anew."""
    parts = parts_held(context.config, [], context.source.block_count)
    for name in trained_by_clients(context.config):
        yield load_part(context.source, parts[name], getattr(torch, context.config.model.dtype))
