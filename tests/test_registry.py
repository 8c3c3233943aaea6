import pytest

from crossframe.errors import UserError
from crossframe.registry import Entry, Registry

SHIPPED = {
    "root": Entry("math:sqrt", "square root"),
    "broken": Entry("crossframe.no_such_module:x", "a mistake in the table"),
    "needy": Entry("needy_target:run", "wants a package that is not there"),
}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A registry on which three installed packages have entry points."""
    (tmp_path / "needy_target.py").write_text("import package_that_is_absent\n")
    (tmp_path / "good_plugin.py").write_text(
        "from crossframe.registry import Entry\n"
        "cube = Entry('good_plugin:power', 'cube', {'install': 'pip install x'})\n"
        "def power(x): return x ** 3\n"
        "wrong = 7\n"
    )
    (tmp_path / "bad_plugin.py").write_text("1 / 0\n")
    points = {
        "good-dist": "cube = good_plugin:cube\nwrong = good_plugin:wrong",
        "bad-dist": "bad = bad_plugin:x\ntwice = bad_plugin:x",
        "rival-dist": "root = good_plugin:cube\ntwice = good_plugin:cube",
    }
    for name, lines in points.items():
        info = tmp_path / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[crossframe.toys]\n{lines}\n")
    monkeypatch.syspath_prepend(tmp_path)
    return Registry("toy", SHIPPED, "crossframe.toys")


def test_names_come_without_importing_anything(registry):
    assert registry.names() == ("root", "broken", "needy", "bad", "cube", "twice", "wrong")
    assert list(registry) == list(registry.names())
    assert len(registry) == 7
    assert "cube" in registry
    assert "nothing" not in registry


def test_load_returns_the_object(registry):
    assert Registry("toy", SHIPPED, "crossframe.nobody").load("root")(9) == 3
    assert registry.load("cube")(2) == 8
    assert registry.entry("cube").extra["install"] == "pip install x"


def test_unknown_name_tells_the_nearest_and_all():
    registry = Registry("toy", SHIPPED, "crossframe.nobody")
    with pytest.raises(UserError) as caught:
        registry.load("rooot")
    assert str(caught.value) == (
        "toy: unknown toy 'rooot' (allowed: root, broken, needy). did you mean 'root'?"
    )


def test_a_missing_package_is_the_users_to_install(registry):
    with pytest.raises(UserError, match=r"needs the module 'package_that_is_absent'.*install"):
        registry.load("needy")


def test_a_mistake_in_the_table_is_not_blamed_on_the_user(registry):
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        registry.load("broken")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad", "from the package bad-dist: .* ZeroDivisionError"),
        ("wrong", "from the package good-dist: .* is a int"),
        ("twice", "is provided by the package .* and by the package"),
        ("root", "is provided by crossframe and by the package rival-dist"),
    ],
)
def test_a_bad_entry_point_is_reported_when_asked_for(registry, name, message):
    with pytest.raises(UserError, match=message):
        registry.load(name)
