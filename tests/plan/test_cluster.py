"""A profile survives its file, and what is no profile is told."""

import json
from pathlib import Path

import pytest
from conftest import PROFILE_LINE, make_profile

from splitcom_dist.errors import UserError
from splitcom_dist.plan.cluster import read, write


def test_a_line_counts_from_one_block() -> None:
    assert (PROFILE_LINE(1), PROFILE_LINE(3)) == pytest.approx((0.02, 0.04))


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    write(make_profile(2), tmp_path / "p.json")
    assert read(tmp_path / "p.json") == make_profile(2)
    assert [speed.rank for speed in make_profile(2).of_role("client")] == [0, 1]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "ranks": [3], "edges": []}'])
def test_other_files_are_no_profiles(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UserError, match="not a profile; `splitcom profile` writes one"):
        read(tmp_path / "p.json")


def test_missing_files_and_other_versions_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read(tmp_path / "p.json")
    write(make_profile(), tmp_path / "p.json")
    values = json.loads((tmp_path / "p.json").read_text()) | {"version": 99}
    (tmp_path / "p.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="another version"):
        read(tmp_path / "p.json")
