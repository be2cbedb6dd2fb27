"""A checkpoint is whole or it is none: torn, altered and unfinished ones are named, and the one before is taken."""

import json
from pathlib import Path

import pytest
import torch

from splitcom_dist.checkpoints.files import MANIFEST, CheckpointFolder
from splitcom_dist.errors import UserError

RANKS = 3


def state(step: int, rank: int) -> dict[str, torch.Tensor]:
    return {"adapter": torch.full((5, 7), float(step)), "rank": torch.tensor(rank)}


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """Whole checkpoints after steps 3, 7 and 11, of which two are kept."""
    folder = CheckpointFolder(tmp_path / "checkpoints", keep=2)
    for step in (3, 7, 11):
        folder.commit(step, {rank: folder.write(step, rank, state(step, rank)) for rank in range(RANKS)}, RANKS)
    return folder


def test_what_was_written_is_read_and_old_ones_go(folder: CheckpointFolder) -> None:
    assert folder.steps() == [7, 11]
    assert folder.newest(RANKS) == (11, [])
    for rank in range(RANKS):
        found = folder.read(11, rank)
        assert found.keys() == state(11, rank).keys()
        assert all(found[name].equal(tensor) for name, tensor in state(11, rank).items())


def test_one_that_was_never_finished_is_passed_over(folder: CheckpointFolder) -> None:
    folder.write(15, 0, state(15, 0))
    step, amiss = folder.newest(RANKS)
    assert step == 11
    assert amiss == ["checkpoint after step 15 cannot be used: it has no readable manifest.json: it was never finished"]
    digests = {rank: folder.write(19, rank, state(19, rank)) for rank in range(RANKS)}
    folder.commit(19, digests, RANKS)
    assert folder.steps() == [11, 19], "the unfinished one goes with the next whole one"


@pytest.mark.parametrize("harm", ["altered", "torn", "missing", "manifest"])
def test_a_damaged_one_is_named_and_the_one_before_is_taken(folder: CheckpointFolder, harm: str) -> None:
    path = folder.root / "step_00000011" / "rank_00001.safetensors"
    whole = path.read_bytes()
    if harm == "altered":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif harm == "torn":
        path.write_bytes(whole[: len(whole) // 2])
    elif harm == "missing":
        path.unlink()
    else:
        (path.parent / MANIFEST).write_text("{")
    step, (line,) = folder.newest(RANKS)
    assert step == 7
    name = "step_00000011/rank_00001.safetensors"
    told = {"missing": f"{name} is missing", "manifest": "it has no readable manifest.json"}
    assert line.startswith("checkpoint after step 11 cannot be used: ")
    assert told.get(harm, f"{name} is torn or altered") in line


def test_of_another_world_it_is_of_no_use(folder: CheckpointFolder) -> None:
    step, amiss = folder.newest(RANKS + 1)
    assert step is None
    assert [line.rpartition(": ")[2] for line in amiss] == [f"it is of {RANKS} ranks, not {RANKS + 1}"] * 2


def test_views_of_one_storage_are_saved_apart(folder: CheckpointFolder) -> None:
    whole = torch.arange(6.0)
    views = {"front": whole[:3], "back": whole[3:], "across": whole.view(2, 3).T}
    folder.commit(20, {0: folder.write(20, 0, views)}, 1)
    found = folder.read(20, 0)
    assert found["back"].tolist() == [3, 4, 5]
    assert found["across"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match=r"rank_00000\.blocks: cannot write the checkpoint: Not a directory"):
        CheckpointFolder(tmp_path / "checkpoints", keep=1).write(1, 0, state(1, 0))


def test_the_manifest_says_which_step_and_version(folder: CheckpointFolder) -> None:
    manifest = json.loads((folder.root / "step_00000011" / MANIFEST).read_text())
    assert manifest["step"] == 11
    assert manifest["ranks"] == RANKS
    assert sorted(manifest["sha256"]) == [f"step_00000011/rank_{rank:05d}.safetensors" for rank in range(RANKS)]
