import subprocess
import sys

import pytest

from crossframe.keys import canonical_json
from crossframe.provenance import PACKAGES, git_state, provenance


@pytest.fixture
def checkout(tmp_path):
    """A git checkout with one commit, of folder `code` holding one file."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("x = 1\n")
    name = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["add", "."], [*name, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    git_state.cache_clear()
    return tmp_path


def test_provenance_is_json_data_about_this_process():
    facts = provenance()
    canonical_json(facts)
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert facts["packages"]["numpy"] == sys.modules["numpy"].__version__
    assert set(facts["packages"]) <= set(PACKAGES)


def test_git_state_sees_the_commit_and_changes(checkout):
    head = (checkout / ".git" / "refs" / "heads").iterdir().__next__().read_text().strip()
    assert git_state(checkout / "code") == {"commit": head, "dirty": False}
    (checkout / "code" / "a.py").write_text("x = 2\n")
    git_state.cache_clear()
    assert git_state(checkout / "code") == {"commit": head, "dirty": True}


def test_a_package_installed_inside_a_checkout_is_not_that_checkout(checkout):
    inside = checkout / "venv" / "crossframe"
    inside.mkdir(parents=True)
    (inside / "provenance.py").touch()
    assert git_state(inside) is None
