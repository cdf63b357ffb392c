"""One version, one list of interfaces, and wheels that carry what the code reads."""

from __future__ import annotations

import email
import importlib.metadata
import re
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from packages import build_sdist, build_wheel, copy_sources
from packaging.requirements import Requirement

from mixformerv2_ros import __version__

ROOT = Path(__file__).resolve().parents[1]


def test_versions_agree():
    assert ElementTree.parse(ROOT / "package.xml").findtext("version") == __version__


def test_the_changelog_begins_with_what_comes_or_with_this_version():
    titles = re.findall(r"^(.+)\n-+$", (ROOT / "CHANGELOG.rst").read_text(), re.MULTILINE)
    released = re.fullmatch(rf"{re.escape(__version__)} \(\d{{4}}-\d\d-\d\d\)", titles[0])
    assert released or titles[0] == "Forthcoming"


def test_package_xml_is_a_ros_package():
    catkin_pkg = pytest.importorskip("catkin_pkg.package")
    package = catkin_pkg.parse_package(str(ROOT / "package.xml"))
    package.validate()
    assert package.get_build_type() == "ament_cmake"
    assert [group.name for group in package.member_of_groups] == ["rosidl_interface_packages"]


def test_cmake_generates_every_interface():
    listed = re.findall(r'"(\w+/\w+\.(?:msg|srv|action))"', (ROOT / "CMakeLists.txt").read_text())
    there = [
        f"{kind}/{p.name}" for kind in ("msg", "srv", "action") for p in (ROOT / kind).glob("*")
    ]
    assert sorted(listed) == sorted(there)


def test_interface_packages_are_declared_where_cmake_uses_them():
    cmake = (ROOT / "CMakeLists.txt").read_text()
    depends = {e.text for e in ElementTree.parse(ROOT / "package.xml").iter("depend")}
    used = {
        match
        for path in (*(ROOT / "msg").glob("*.msg"), *(ROOT / "action").glob("*.action"))
        for match in re.findall(r"^(\w+)/\w+", path.read_text(), re.MULTILINE)
    }
    assert used
    for package in used:
        assert package in depends
        assert f"find_package({package} REQUIRED)" in cmake


def test_generated_modules_have_room_beside_ours():
    """A `msg`, `srv` or `action` package of ours would hide the generated one."""
    for name in ("msg", "srv", "action"):
        assert not (ROOT / "mixformerv2_ros" / name).exists()


def test_no_registry_is_written_down():
    names = re.compile(r"pypi\.org|pythonhosted|deb\.debian\.org|--index-url|registry\.npmjs")
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in files:
        path = ROOT / name
        if path == Path(__file__) or path.suffix in {".onnx", ".safetensors", ".png"}:
            continue
        assert not names.search(path.read_text("utf-8", errors="ignore")), name


@dataclass(frozen=True)
class Built:
    """A copy of the sources, their wheel, and the names of the files in that."""

    source: Path
    wheel: Path
    names: set[str]

    @property
    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as file:
            (name,) = (name for name in self.names if name.endswith(".dist-info/METADATA"))
            return email.message_from_bytes(file.read(name))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    folder = tmp_path_factory.mktemp("wheel")
    source = copy_sources(folder)
    wheel = build_wheel(source, folder)
    return Built(source, wheel, contents(wheel))


def contents(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_a_wheel_carries_interfaces_model_and_pages(built):
    for path in (
        "interfaces/mixformerv2_ros/Track.msg",
        "interfaces/vision_msgs/Detection2DArray.msg",
        "models/default/model.json",
        "models/default/model.safetensors",
        "models/default/search.onnx",
        "models/default/template_encoder.onnx",
        "models/default/README.md",
        "models/tiny/model.safetensors",
        "models/tiny/README.md",
        "lab/evaluation/held_out.txt",
        "lab/datasets/validation.txt",
        "lab/datasets/same_videos.txt",
        "lab/reports/templates/run.html.j2",
        "lab/reports/templates/page.js",
        "lab/settings/finetune_t.yaml",
        "lab/settings/demo/recipe.yaml",
        "ros/web/static/page.js",
        "py.typed",
    ):
        assert f"mixformerv2_ros/{path}" in built.names, path


def test_a_source_distribution_builds_the_same_wheel(built, tmp_path):
    archive = build_sdist(built.source, tmp_path)
    with tarfile.open(archive) as file:
        file.extractall(tmp_path, filter="data")
    unpacked = tmp_path / archive.name.removesuffix(".tar.gz")
    assert contents(build_wheel(unpacked, tmp_path)) == built.names


def test_a_wheel_without_the_laboratory_lacks_nothing_else(built, tmp_path):
    # From the same sources: what an earlier build left behind must not come along.
    wheel = build_wheel(built.source, tmp_path, MIXFORMERV2_ROS_LAB="OFF")
    left_out = built.names - contents(wheel)
    assert contents(wheel) < built.names
    assert left_out
    assert all(name.startswith("mixformerv2_ros/lab/") for name in left_out)


def test_public_ci_runs_every_python_that_is_declared(built):
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    versions = workflow["jobs"]["python"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    classifiers = built.metadata.get_all("Classifier")
    assert [c.removeprefix(prefix) for c in classifiers if c.startswith(prefix)] == versions
    assert built.metadata["Requires-Python"] == f">={versions[0]}"


@pytest.mark.parametrize("name", [".pre-commit-config.yaml", ".github/workflows/ci.yml"])
def test_hooks_and_public_ci_run_what_make_runs(name):
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)
    called = re.findall(
        r"(?:entry: |run: |^ +)make (?:-C \S+ )?([\w-]+)", (ROOT / name).read_text(), re.MULTILINE
    )
    assert called
    assert set(called) <= set(phony.split())


def test_the_lowest_constraints_are_the_lower_bounds(built):
    bounds = set()
    for text in built.metadata.get_all("Requires-Dist"):
        requirement = Requirement(text)
        extras = re.findall(r'extra == "(\w+)"', str(requirement.marker))
        if not extras or extras[0] in ("dds", "mavlink", "openvino", "report", "rerun"):
            bounds |= {
                f"{requirement.name}=={specifier.version}"
                for specifier in requirement.specifier
                if specifier.operator == ">="
            }
    lines = (ROOT / "constraints-lowest.txt").read_text().splitlines()
    assert {line for line in lines if not line.startswith("#")} == bounds


def test_contrib_opencv_is_the_one_that_development_uses():
    """Both wheels write the same folder, and the last one in wins."""
    try:
        importlib.metadata.version("opencv-contrib-python-headless")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs opencv-contrib-python-headless, which is not installed")
    cv2 = pytest.importorskip("cv2")
    assert hasattr(cv2, "TrackerCSRT"), "make test installs opencv-contrib last"
