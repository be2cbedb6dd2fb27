"""From YAML files and dotted overrides to a checked Config."""

import difflib
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from splitcom_dist.config.checks import validate
from splitcom_dist.config.schema import Config, all_keys
from splitcom_dist.errors import UserError
from splitcom_dist.extensions import load_extensions

GROUPS = ("model", "data", "shape", "codec", "control")
EXCHANGED = ("codec", "control")  # groups of which a preset is the whole


def preset_folder() -> Path:
    """Where the presets are."""
    return shipped_folder("configs")


def shipped_folder(name: str) -> Path:
    """A folder of the checkout, or the copy of it that an installed package carries."""
    packaged = Path(str(importlib.resources.files("splitcom_dist"))) / name
    return packaged if packaged.is_dir() else packaged.parent.parent / name


def files_and_overrides(settings: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line: what has a `=` is an override, the rest are files."""
    return [each for each in settings if "=" not in each], [each for each in settings if "=" in each]


def load_config(files: Sequence[str | Path] = (), overrides: Sequence[str] = ()) -> Config:
    """Merge schema defaults, base.yaml, `files` left to right, then `overrides` such as `train.lr=1e-3`.

    A file may name others in a list `include` (relative to itself); they are merged before it. An override of a
    whole group names a preset: `codec=splitcom` reads configs/codec/splitcom.yaml. Raises UserError, one line.
    """
    merged = OmegaConf.structured(Config)
    sources = [(str(path), _read(Path(path))) for path in (preset_folder() / "base.yaml", *files)]
    sources += [(text, _override(text)) for text in overrides]
    for origin, tree in sources:
        for group in EXCHANGED:
            if origin.startswith(f"{group}="):  # nothing of the preset before it may be left
                merged[group] = OmegaConf.structured(Config)[group]
        try:
            merged = cast(DictConfig, OmegaConf.merge(merged, tree))
        except OmegaConfBaseException as error:
            raise UserError(f"{origin}: {_explain(error)}") from None
    config = cast(Config, OmegaConf.to_object(merged))
    config.extensions = load_extensions(config.extensions)
    validate(config)
    return config


def with_groups(config: Config, groups: Mapping[str, Any]) -> Config:
    """The configuration with the keys of some groups as given, from another one's resolved values."""
    merged = OmegaConf.merge(OmegaConf.structured(config), dict(groups))
    return cast(Config, OmegaConf.to_object(merged))


def to_yaml(config: Config) -> str:
    """The resolved configuration, readable by `load_config`."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _read(path: Path) -> DictConfig:
    if not path.is_file():
        raise UserError(f"{path}: no such configuration file; presets are under {preset_folder()}")
    try:
        tree = OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, DictConfig):
        raise UserError(f"{path}: the top level must be keys and values")
    includes = tree.pop("include", [])
    for include in reversed(includes):
        tree = cast(DictConfig, OmegaConf.merge(_read(path.parent / include), tree))
    return tree


def _override(text: str) -> Any:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{text}: overrides are written key=value")
    if key in GROUPS:
        preset = preset_folder() / key / f"{value}.yaml"
        if not preset.is_file():
            known = sorted(path.stem for path in preset.parent.glob("*.yaml"))
            raise UserError(f"{text}: no such preset; {key} has {', '.join(known)}")
        return _read(preset)
    return OmegaConf.from_dotlist([text])


def _explain(error: OmegaConfBaseException) -> str:
    """One line for OmegaConf's several, with the nearest known key."""
    key = error.full_key or str(error.key or "")
    if not key:
        return "a group of keys needs keys and values below it"
    known = all_keys(Config())
    if key in known:
        return f"{key}: {str(error.msg or error).splitlines()[0]}"
    leaves = {name.rpartition(".")[2]: name for name in known}
    near = [leaves[key]] if key in leaves else difflib.get_close_matches(key, known, 1)
    near = near or [leaves[leaf] for leaf in difflib.get_close_matches(key.rpartition(".")[2], leaves, 1)]
    return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else "; `--dry-run` prints every key")
