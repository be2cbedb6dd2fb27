"""What no run could use: values outside their range, and keys that contradict each other."""

import math

from splitcom_dist.config.crossing import check_crossing
from splitcom_dist.config.federation import check_federation
from splitcom_dist.config.ranges import check_ranges
from splitcom_dist.config.schema import Config, DataConfig, lookup
from splitcom_dist.errors import UserError


def validate(config: Config) -> None:
    """Raise UserError for the first value that no run could use; names the key and the mend."""
    check_ranges(config)
    for key in ("lora.dropout", "model.dropout", "control.ddpg.discount"):
        if not 0 <= lookup(config, key) < 1:
            raise UserError(f"{key}={lookup(config, key)}: must be at least 0 and below 1")
    check_federation(config)
    _check_data(config.data)
    check_crossing(config)


def _check_data(data: DataConfig) -> None:
    if "{client}" in (data.path or "") and data.validation_path is None:
        raise UserError("data.path holds {client}: say where the aggregator's is with data.validation_path")
    if "{client}" in (data.path or "") and data.partition != "iid":
        raise UserError(
            f"data.partition={data.partition}: data.path holds {{client}}, so every client has its own files and there "
            "is no pool to divide; name one file or folder in data.path, or leave data.partition out"
        )
    if data.partition == "dirichlet_label" and data.label_field is None:
        raise UserError("data.partition=dirichlet_label: say by which field with data.label_field")
    if not 0 < data.alpha < math.inf:
        raise UserError(f"data.alpha={data.alpha}: must be above 0 and finite")
