"""The versions that are allowed are those that the tests are run with: the oldest of constraints-oldest.txt, the newest of constraints.txt."""

import re
import tomllib

import pytest
from builders import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NEEDED = [Requirement(text) for text in (*PROJECT["dependencies"], *EXTRAS["test"], *EXTRAS["docs"])]
NEEDED = [r for r in NEEDED if r.name != PROJECT["name"]]  # the extra "test" takes "docs"


def pins(name):
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    found = dict(line.split("==") for line in lines if line)
    return {canonicalize_name(name): Version(version) for name, version in found.items()}


def floor_of(requirement):
    (version,) = (s.version for s in requirement.specifier if s.operator == ">=")
    return Version(version)


@pytest.mark.parametrize("requirement", [Requirement(text) for text in PROJECT["dependencies"]], ids=lambda r: r.name)
def test_the_oldest_that_is_allowed_is_the_oldest_that_is_tested(requirement):
    assert pins("constraints-oldest.txt")[canonicalize_name(requirement.name)] == floor_of(requirement)


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_every_version_that_is_tested_is_allowed(name):
    pinned = pins(name)
    assert [r.name for r in NEEDED if not r.specifier.contains(pinned[canonicalize_name(r.name)], prereleases=True)] == []


def test_the_lane_of_the_oldest():
    """It reads the constraints beside it, and takes another torch by name."""
    lane = ROOT / ".ci" / "oldest"
    if not lane.exists():
        pytest.skip("a distribution without its checks")
    assert "constraints-oldest.txt" in lane.read_text() and re.search(r"^torch==", (ROOT / "constraints-oldest.txt").read_text(), re.MULTILINE)
