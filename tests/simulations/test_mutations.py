"""The table of planted bugs fits the code as it is; `make mutants` finds them."""

import shutil
from pathlib import Path

import pytest

from simulations.mutants import PACKAGES, ROOT
from simulations.mutations import Edit, Mutation, MutationError, mutate, read_mutations
from simulations.profiles import PROFILES

MUTATIONS = read_mutations()


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_fits_the_code(mutation: Mutation, tmp_path: Path) -> None:
    assert mutation.profiles
    assert all(profile in PROFILES for profile in mutation.profiles)
    for edit in mutation.edit:
        assert edit.path.split("/")[0] in PACKAGES
        copy = tmp_path / edit.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / edit.path, copy)
    mutate(tmp_path, mutation)
    for edit in mutation.edit:
        compile((tmp_path / edit.path).read_text(), edit.path, "exec")


def test_a_mutation_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("one two two")
    for old in ("two", "three"):
        mutation = Mutation("misfit", "", ("standard",), (Edit("code.py", old, "four"),))
        with pytest.raises(MutationError, match="must have it once"):
            mutate(tmp_path, mutation)


def test_there_are_enough_and_each_once() -> None:
    names = [mutation.name for mutation in MUTATIONS]
    assert len(names) == len(dict.fromkeys(names)) >= 15
