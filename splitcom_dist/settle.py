"""The end of a run: totals of all ranks meet, logs are joined, the adapter is exported, the table is printed."""

import dataclasses
import logging
import resource

import torch

from splitcom_dist.models.lora import adapter_parameters, peft_config, save_adapter
from splitcom_dist.models.split import resident_bytes
from splitcom_dist.roles.aggregator import AggregatorRole
from splitcom_dist.roles.build import Role
from splitcom_dist.roles.context import Context
from splitcom_dist.run_directory import RunDirectory
from splitcom_dist.telemetry.join import join
from splitcom_dist.telemetry.ledger import named_totals
from splitcom_dist.telemetry.summary import RankMemory, Summary, print_table, write

log = logging.getLogger(__name__)


def settle(context: Context, role: Role, directory: RunDirectory, seconds: float) -> None:
    """Every rank calls this once its log is closed; the aggregator writes what remains of the run."""
    world = context.world
    memory = torch.zeros(world.layout.world_size, 2, dtype=torch.int64)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
    memory[world.rank] = torch.tensor([resident_bytes(role.holds), peak])
    # This sum is also the barrier behind which every rank's log is closed.
    sums = world.sum_over_ranks(torch.cat([context.ledger.totals(), memory.flatten()]))
    if isinstance(role, AggregatorRole):
        totals, memory = sums[: -memory.numel()], sums[-memory.numel() :].view_as(memory)
        _write(context, role, directory, seconds, totals, memory)


def _write(
    context: Context,
    role: AggregatorRole,
    directory: RunDirectory,
    seconds: float,
    totals: torch.Tensor,
    memory: torch.Tensor,
) -> None:
    config, layout = context.config, context.world.layout
    for warning in join(directory.telemetry, directory.root / "run.h5", layout.world_size):
        log.warning(warning)
    base = config.model.name if config.model.name != "tiny" else str(context.source.folder)
    adapter = peft_config(context.source.config.model_type, config.lora, base)
    save_adapter(directory.adapter, adapter_parameters(role.model), adapter)
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
        ranks=[
            RankMemory(layout.name_of(rank), int(weights), int(resident))
            for rank, (weights, resident) in enumerate(memory.tolist())
        ],
        config=dataclasses.asdict(config),
    )
    write(summary, directory.summary)
    title = f"{config.data.name} · {config.model.name} · codec {config.codec.name} · {layout.clients} clients"
    print_table(summary, title)
    print(f"\n{directory.root}", flush=True)
