"""The house: what is packaged, what is public, what an import loads, what lies at the top."""

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


def test_the_packages_list_names_every_folder_with_an_init(setuptools_table):
    folders = (ROOT / "nnx_alexnet").glob("**/__init__.py")
    inside = {path.parent.relative_to(ROOT) for path in folders}
    inside |= {  # `**` does not follow the link on every Python
        "nnx_alexnet" / path.parent.relative_to(ROOT)
        for path in (ROOT / "callbacks").glob("**/__init__.py")
    }
    expected = sorted(".".join(path.parts) for path in inside)
    assert setuptools_table["packages"] == expected
    assert setuptools_table["package-dir"] == {"nnx_alexnet.callbacks": "callbacks"}


def test_the_callbacks_are_those_of_the_folder_at_the_top():
    link = ROOT / "nnx_alexnet" / "callbacks"
    assert link.is_symlink()
    assert link.readlink() == Path("../callbacks")
    module = importlib.import_module("nnx_alexnet.callbacks")
    assert Path(module.__file__).resolve() == ROOT / "callbacks" / "__init__.py"


@pytest.mark.parametrize("module", PUBLIC)
def test_all_is_sorted_and_every_name_in_it_exists(module):
    package = importlib.import_module(module)
    assert sorted(set(package.__all__)) == sorted(package.__all__)
    missing = [name for name in package.__all__ if not hasattr(package, name)]
    assert missing == []


@pytest.mark.parametrize("module", PUBLIC)
def test_public_classes_and_functions_have_a_docstring_with_an_example(module):
    package = importlib.import_module(module)
    items = [(name, getattr(package, name)) for name in package.__all__]
    items = [(name, item) for name, item in items if inspect.isclass(item) or callable(item)]
    assert items
    # an enumeration's members say it all
    enumerations = {name for name, item in items if isinstance(item, enum.EnumType)}
    items = [(name, item) for name, item in items if name not in enumerations]
    # an alias of a type, such as `dict[str, int]`, is callable and has its type's docstring
    items = [(name, item) for name, item in items if not isinstance(item, types.GenericAlias)]
    assert [name for name, item in items if ">>>" not in (item.__doc__ or "")] == []


def test_models_import_only_flax_jax_and_numpy():
    allowed = {"flax", "jax", "numpy"} | sys.stdlib_module_names
    for path in (ROOT / "nnx_alexnet" / "models").glob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or ".")
        foreign = {name for name in imported if not name.startswith("nnx_alexnet.models")}
        assert {name.split(".")[0] for name in foreign} <= allowed, path


def test_the_installed_version_is_that_of_the_tree():
    version = importlib.import_module("nnx_alexnet.version").__version__
    try:
        installed = importlib.metadata.version("nnx-alexnet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nnx-alexnet is not installed")
    assert installed == version
    assert importlib.import_module("nnx_alexnet").__version__ == version


def test_importing_the_package_loads_nothing_heavy():
    code = f"import sys, nnx_alexnet; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_loading_the_digits_leaves_torch_out():
    code = (
        "import sys, nnx_alexnet; nnx_alexnet.load_data('digits'); "
        "print([name for name in ('torch', 'torchvision') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


def test_nothing_else_lies_at_the_top():
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
