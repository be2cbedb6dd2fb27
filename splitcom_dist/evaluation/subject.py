"""What is evaluated: the adapter of a run directory, of a folder or of the hub, and with which settings."""

import argparse
import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitcom_dist.config.files import load_config
from splitcom_dist.config.schema import Config
from splitcom_dist.errors import UserError

if TYPE_CHECKING:
    from splitcom_dist.models.sources import ModelSource

WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class Subject:
    """What is evaluated: the folder of an adapter, the base it names, and the run it comes from, if any."""

    adapter: Path
    base: str | None
    run: Path | None


def find_subject(target: str) -> Subject:
    """The adapter of a run directory, its `adapter/`, another PEFT folder or a hub name. Raises UserError."""
    folder = Path(target).expanduser()
    if not folder.is_dir():
        folder = _from_hub(target)
    run = next((each for each in (folder, folder.parent) if _is_run(each, folder)), None)
    adapter = run / "adapter" if run else folder
    settings_file = adapter / "adapter_config.json"
    if not settings_file.is_file():
        mend = "the run has not finished its training" if run else "name a run directory or the folder of an adapter"
        raise UserError(f"{target}: no adapter_config.json in {adapter}; {mend}")
    if not any((adapter / name).is_file() for name in WEIGHTS):
        raise UserError(f"{target}: {adapter} has no {WEIGHTS[0]}; copy or download the adapter again")
    try:
        base = json.loads(settings_file.read_text()).get("base_model_name_or_path")
    except (ValueError, AttributeError, OSError) as error:
        raise UserError(f"{settings_file}: not an adapter's settings ({' '.join(str(error).split())})") from None
    return Subject(adapter, base, run)


def _is_run(candidate: Path, folder: Path) -> bool:
    return (candidate / "config.yaml").is_file() and folder in (candidate, candidate / "adapter")


def _from_hub(target: str) -> Path:
    owner, _, name = target.partition("/")
    if not name or "/" in name or Path(owner).is_dir() or target.startswith((".", "~", "/")) or Path(target).exists():
        raise UserError(f"{target}: no such folder; name a run directory, the folder of an adapter or OWNER/NAME")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(target, allow_patterns=["adapter_*"]))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise UserError(
            f"{target}: neither a folder nor an adapter to be had from the hub ({type(error).__name__}); "
            "download it where there is network, then name the folder"
        ) from None


def settings_for(subject: Subject, options: argparse.Namespace) -> Config:
    """The run's configuration with the arguments applied; other data than the run's own is taken whole."""
    config = load_config([subject.run / "config.yaml"]) if subject.run else Config()
    data = config.data
    name = options.data or (data.name if subject.run else None)
    if name is None:
        raise UserError(f"{options.target} is no run directory: say with --data what to evaluate it on")
    path = options.data_path or (data.path if name == data.name else None)
    if subject.run is None or (name, path) != (data.name, data.path):
        config.data = replace(data, name=name, path=path, validation_path=None, validation_samples=None)
    elif options.split != "validation":
        config.data = replace(data, validation_samples=None)
    base = options.model or (config.model.name if subject.run else subject.base)
    if not base:
        raise UserError(f"{subject.adapter}/adapter_config.json names no base model: say which with --model")
    config.model.name = base
    return config


def with_adapter(source: "ModelSource", adapter: Path) -> Any:
    """The whole base model in float32 with the adapter in its layers. Raises UserError."""
    import peft
    import torch
    from safetensors import SafetensorError

    from splitcom_dist.models.split import load_part, whole

    base = load_part(source, whole(source.block_count), torch.float32)
    try:
        with warnings.catch_warnings():
            # An adapter of fewer layers than the base has would leave the others as peft initialises them.
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about what peft calls
            warnings.filterwarnings("error", message=".*missing adapter keys", category=UserWarning)
            tuned = peft.PeftModel.from_pretrained(base, adapter)
    except (ValueError, TypeError, KeyError, RuntimeError, OSError, UserWarning, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{adapter} does not fit {source.name} (another base: --model): {reason}") from None
    if tuned.active_peft_config.is_prompt_learning:
        raise UserError(f"{adapter}: {tuned.active_peft_config.peft_type} changes the prompt; only adapters in layers")
    return tuned.base_model.model
