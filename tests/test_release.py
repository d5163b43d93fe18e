"""The distributions agree with each other, and the release workflow follows RELEASING.md."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from imagegen_core import CONTRACT_VERSION

ROOT = Path(__file__).parent.parent
PROJECTS = {path.parent.name: tomllib.loads(path.read_text())["project"] for path in ROOT.glob("src/*/pyproject.toml")}
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))


def _version() -> str:
    versions = {project["version"] for project in PROJECTS.values()}
    assert len(versions) == 1, versions
    return str(versions.pop())


def test_all_distributions_have_one_version() -> None:
    major, minor, _ = map(int, _version().split("."))
    expected = f">={major}.{minor},<{major}.{minor + 1}"
    for name in PROJECTS.keys() - {"imagegen_core"}:
        core = [words for words in PROJECTS[name]["dependencies"] if words.startswith("imagegen-core")]
        assert [words.removeprefix("imagegen-core").removeprefix("[diffusers]") for words in core] == [expected]


def test_the_changelog_begins_with_the_version() -> None:
    heading = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading
    assert re.fullmatch(rf"{re.escape(_version())}, (unreleased|20\d\d-\d\d-\d\d)", heading[1])


def test_every_distribution_has_the_same_links_and_classifiers() -> None:
    core = PROJECTS["imagegen_core"]
    assert core["urls"].keys() >= {"Source", "Documentation", "Changelog", "Issues"}
    for project in PROJECTS.values():
        assert (project["urls"], project["classifiers"]) == (core["urls"], core["classifiers"])


def test_the_contract_version_is_a_major_and_a_minor() -> None:
    assert re.fullmatch(r"\d+\.\d+", CONTRACT_VERSION)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_gives_each_job_its_own_permissions(path: Path) -> None:
    workflow = _load(path)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"]
        for step in job["steps"]:
            assert "uses" in step or "run" in step
            # GitHub's own actions have a major version, all others a commit.
            assert re.fullmatch(r"(actions/[\w-]+@v\d+|[\w/-]+@[0-9a-f]{40})", step.get("uses", "actions/x@v1"))


def test_only_the_job_with_the_pypi_environment_publishes() -> None:
    jobs = _load(ROOT / ".github/workflows/release.yml")["jobs"]
    publishing = [name for name, job in jobs.items() if any("pypi-publish" in s.get("uses", "") for s in job["steps"])]
    assert publishing == ["publish"]
    assert jobs["publish"]["environment"] == "pypi"
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert [jobs[name]["needs"] for name in ("build", "publish", "announce")] == ["test", "build", "publish"]


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/[!c]*.yml")), ids=lambda path: path.name)
def test_an_issue_form_is_valid(path: Path) -> None:
    form = _load(path)
    assert {"name", "description", "body"} <= form.keys()
    kinds = [field["type"] for field in form["body"]]
    assert set(kinds) <= {"markdown", "textarea", "input", "dropdown", "checkboxes"}
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(ids) == len(set(ids))


def test_the_devcontainer_installs_every_distribution_with_constraints() -> None:
    command = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())["onCreateCommand"]
    assert "--constraint constraints.txt" in command
    assert all(f"src/{name}" in command for name in PROJECTS)


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
