"""The shape of the house: imports run one way, and planning and reporting start without torch."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click

from crossframe.cli import main

ROOT = Path(__file__).parent.parent
FOUNDATION = {
    "archives",
    "cache",
    "checkpoints",
    "errors",
    "files",
    "flow",
    "form",
    "keys",
    "processes",
    "progress",
    "provenance",
    "registry",
    "sound",
    "video",
    "voice",
    "weights",
}
# package -> the packages it may import, besides itself and the foundation
LAYERS = {
    "crossframe": set(),
    "data_manifests": set(),
    "methods": set(),
    "metrics": set(),
    "miniature": {"data_manifests", "methods", "metrics"},
    "ablations": {"data_manifests", "methods", "metrics"},
    "reports": {"ablations", "data_manifests", "methods", "metrics"},
}
# The command line stands on top of everything and imports lazily.
TOP = ("crossframe/cli.py", "crossframe/__main__.py", "crossframe/verbs/")
TORCH_FREE = [
    "crossframe/*.py",
    "data_manifests/*.py",
    "methods/__init__.py",
    "methods/annotator_files.py",
    "methods/axes.py",
    "methods/base.py",
    "methods/condition_kinds.py",
    "methods/options.py",
    "methods/controlvideo/layout.py",
    "methods/controlvideo/options.py",
    "methods/hallo/keys.py",
    "methods/hallo/options.py",
    "methods/hallo/sizes.py",
    "methods/interpolators/__init__.py",
    "methods/interpolators/rife_weights.py",
    "methods/patterns.py",
    "methods/*config*.py",
    "methods/*/config.py",
    "methods/families.py",
    "methods/fresco/options.py",
    "methods/svd/options.py",
    "metrics/__init__.py",
    "crossframe/flow/table.py",
    "metrics/frechet.py",
    "metrics/identity.py",
    "metrics/preprocessing.py",
    "metrics/presets.py",
    "metrics/stillness.py",
    "metrics/tables/*.py",
    "crossframe/weights.py",
    "ablations/__init__.py",
    "ablations/cards.py",
    "ablations/cellkeys.py",
    "ablations/check.py",
    "ablations/check_report.py",
    "ablations/choice.py",
    "ablations/claims.py",
    "ablations/clips.py",
    "ablations/describe.py",
    "ablations/estimate.py",
    "ablations/grid.py",
    "ablations/health.py",
    "ablations/leases.py",
    "ablations/leftovers.py",
    "ablations/listing.py",
    "ablations/parts.py",
    "ablations/plan.py",
    "ablations/planned.py",
    "ablations/seals.py",
    "ablations/shipped.py",
    "ablations/scoring_align.py",
    "ablations/scoring_output.py",
    "ablations/scoring_pairs.py",
    "ablations/spec.py",
    "ablations/specfile.py",
    "ablations/stage_versions.py",
    "ablations/stages.py",
    "ablations/store.py",
    "reports/*.py",
    "reports/page/*.py",
]
FILES = sorted(path for package in LAYERS for path in (ROOT / package).rglob("*.py"))


def imported(path):
    """Yield the dotted name of every module that a file imports, anywhere in it."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            # `from package import module` imports the module too.
            yield from (f"{module}.{name.name}" for name in node.names)


def offences(path):
    relative = path.relative_to(ROOT)
    own = relative.parts[0]
    if relative.as_posix().startswith(TOP):
        return
    for name in imported(path):
        package, *inner = name.split(".")
        if package == "crossframe":
            if inner and inner[0] not in FOUNDATION | {"__version__"}:
                yield f"{relative} imports {name}: only the foundation may be imported"
        elif package in LAYERS and package not in LAYERS[own] | {own}:
            yield f"{relative} imports {name}: {own} stands beside or below {package}"


def test_imports_run_one_way():
    assert [offence for path in FILES for offence in offences(path)] == []


def test_the_checker_sees_an_offence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "methods" / "deep" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text("def f():\n    from metrics import flow\n    from crossframe import cli\n")
    assert [line.split(":")[0] for line in offences(path)] == [
        "methods/deep/x.py imports metrics.flow",
        "methods/deep/x.py imports crossframe.cli",
    ]
    path.write_text("from ..base import SampleRequest\nfrom . import config\n")
    assert list(imported(path)) == ["methods.base.SampleRequest", "methods.deep.config"]
    assert list(offences(path)) == []


def run(code, *arguments):
    """Run Python code in a fresh process from the root of the checkout."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_modules_that_plan_or_report_import_no_torch():
    paths = sorted({path for pattern in TORCH_FREE for path in ROOT.glob(pattern)})
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in paths
        if path.name != "__main__.py"
    ]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules: sys.exit(name + ' imports torch')\n"
    )
    done = run(code, *modules)
    assert done.returncode == 0, done.stderr


VERBS = [
    ["--help"],
    ["list"],
    ["list", "methods"],
    ["list", "metrics"],
    ["list", "presets"],
    ["describe", "controlvideo"],
    ["score", "--help"],
    ["plan", "demo", "--set", "clips=[world:heldout/0]"],
    ["schema"],
    ["clips", "list"],
    ["paper", "list"],
    ["clips", "list", "photos"],
]


def test_verbs_that_run_nothing_import_no_torch():
    assert isinstance(main, click.Group)
    known = main.list_commands(click.Context(main))
    lines = [words for words in VERBS if words[0] == "--help" or words[0] in known]
    assert lines == VERBS
    code = (
        "import json, sys\n"
        "from crossframe.cli import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    status = main(words, standalone_mode=False)\n"
        "    if status: sys.exit(f'{words} ends with {status}')\n"
        "    if 'torch' in sys.modules: sys.exit(f'{words} imports torch')\n"
    )
    done = run(code, json.dumps(lines))
    assert done.returncode == 0, done.stderr


# Modules whose distribution has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python-headless",
    "huggingface_hub": "huggingface-hub",
    "open_clip": "open_clip_torch",
    "ruamel": "ruamel.yaml",
}


def test_every_imported_package_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    declared = {re.split("[>=\\[;]", line)[0] for line in [*project["dependencies"], *extras]}
    used = {name.split(".")[0] for path in FILES for name in imported(path)}
    foreign = used - set(sys.stdlib_module_names) - set(LAYERS)
    assert {DISTRIBUTIONS.get(name, name) for name in foreign} <= declared


def test_every_package_is_built():
    find = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {name for name in find["find"]["include"] if "." not in name} == set(LAYERS)
    folders = {path.parent for path in FILES}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
