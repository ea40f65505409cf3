"""The package: its folders, its public names, its imports, and the top-level files."""

import ast
import enum
import importlib
import importlib.metadata
import inspect
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {"pyproject.toml", "README.md", "nnx_alexnet", "callbacks", "tests", "logs"}
PUBLIC = ["nnx_alexnet", "nnx_alexnet.callbacks", "nnx_alexnet.data", "nnx_alexnet.models"]
HEAVY = [
    "matplotlib", "orbax", "pandas", "sklearn", "tensorboard", "tensorflow", "torch", "torchvision",
]  # fmt: skip


@pytest.fixture(scope="module")
def setuptools_table():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def test_pyproject_lists_every_package(setuptools_table):
    folders = (ROOT / "nnx_alexnet").glob("**/__init__.py")
    inside = {path.parent.relative_to(ROOT) for path in folders}
    inside |= {  # `**` does not follow the link on every Python
        "nnx_alexnet" / path.parent.relative_to(ROOT)
        for path in (ROOT / "callbacks").glob("**/__init__.py")
    }
    expected = sorted(".".join(path.parts) for path in inside)
    assert setuptools_table["packages"] == expected
    assert setuptools_table["package-dir"] == {"nnx_alexnet.callbacks": "callbacks"}


def test_the_callbacks_package_is_the_top_level_folder():
    link = ROOT / "nnx_alexnet" / "callbacks"
    assert link.is_symlink()
    assert link.readlink() == Path("../callbacks")
    module = importlib.import_module("nnx_alexnet.callbacks")
    assert Path(module.__file__).resolve() == ROOT / "callbacks" / "__init__.py"


@pytest.mark.parametrize("module", PUBLIC)
def test_all_is_free_of_duplicates_and_every_name_exists(module):
    package = importlib.import_module(module)
    assert len(set(package.__all__)) == len(package.__all__)
    missing = [name for name in package.__all__ if not hasattr(package, name)]
    assert missing == []


@pytest.mark.parametrize("module", PUBLIC)
def test_public_classes_and_functions_have_an_example(module):
    package = importlib.import_module(module)
    items = [(name, getattr(package, name)) for name in package.__all__]
    items = [(name, item) for name, item in items if inspect.isclass(item) or callable(item)]
    assert items
    # the members of an enumeration need no example
    enumerations = {name for name, item in items if isinstance(item, enum.EnumType)}
    items = [(name, item) for name, item in items if name not in enumerations]
    # an alias of a type, such as `dict[str, int]`, is callable and has its type's docstring
    items = [(name, item) for name, item in items if not isinstance(item, types.GenericAlias)]
    assert [name for name, item in items if ">>>" not in (item.__doc__ or "")] == []


@pytest.mark.parametrize(
    "path", [*(ROOT / "nnx_alexnet" / "models").glob("*.py")], ids=lambda p: p.stem
)
def test_models_import_only_flax_jax_and_numpy(path):
    allowed = {"flax", "jax", "numpy"} | sys.stdlib_module_names
    if path.name == "summary.py":
        allowed |= {"rich"}  # for its table; flax requires it as well
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or ".")
    foreign = {name for name in imported if not name.startswith("nnx_alexnet.models")}
    assert {name.split(".")[0] for name in foreign} <= allowed


def test_the_installed_version_is_the_version_of_the_source():
    version = importlib.import_module("nnx_alexnet.version").__version__
    try:
        installed = importlib.metadata.version("nnx-alexnet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nnx-alexnet is not installed")
    assert installed == version
    assert importlib.import_module("nnx_alexnet").__version__ == version


def test_importing_the_package_does_not_load_heavy_libraries():
    code = f"import sys, nnx_alexnet; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_loading_the_digits_does_not_load_torch():
    code = (
        "import sys, nnx_alexnet; nnx_alexnet.load_data('digits'); "
        "print([name for name in ('torch', 'torchvision') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_the_top_level_has_no_other_files():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    run = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    visible = {Path(line).parts[0] for line in run.stdout.splitlines()}
    assert {name for name in visible if not name.startswith(".")} <= TOP_LEVEL
