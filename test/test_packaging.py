"""One version, one list of interfaces, and wheels that carry what the code reads."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mixformerv2_ros import __version__

ROOT = Path(__file__).resolve().parents[1]


def test_versions_agree():
    assert ElementTree.parse(ROOT / "package.xml").findtext("version") == __version__
    assert f"\n{__version__} " in (ROOT / "CHANGELOG.rst").read_text()


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


def test_a_wheel_carries_interfaces_model_and_pages(tmp_path):
    # A copy: setuptools leaves its build folder behind, and would take stale files from it.
    source = tmp_path / "source"
    skipped = shutil.ignore_patterns(".*", "build", "runs", "demo_out", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=skipped)
    subprocess.run(
        [
            sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
            "--wheel-dir", str(tmp_path), str(source),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (
        "interfaces/mixformerv2_ros/Track.msg",
        "interfaces/vision_msgs/Detection2DArray.msg",
        "models/default/model.json",
        "models/default/model.safetensors",
        "models/default/search.onnx",
        "models/default/template_encoder.onnx",
        "models/default/README.md",
        "lab/evaluation/held_out.txt",
        "lab/reports/page.css",
        "lab/reports/page.js",
        "py.typed",
    ):
        assert f"mixformerv2_ros/{path}" in names, path


def test_contrib_opencv_is_the_one_that_development_uses():
    cv2 = pytest.importorskip("cv2")
    assert hasattr(cv2, "TrackerCSRT"), "make test installs opencv-contrib last"
