"""Names, remapping rules and parameter files, as ROS 2 nodes take them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixformerv2_ros.cli import main
from mixformerv2_ros.errors import ParameterError
from mixformerv2_ros.ros.cyclonedds.names import NodeNames, parse_names
from mixformerv2_ros.ros.cyclonedds.parameter_files import read_parameter_file


@pytest.mark.parametrize(
    ("namespace", "rules", "name", "expected"),
    [
        ("/", [], "image", "/image"),
        ("/", [], "/image", "/image"),
        ("/", [], "~/stop", "/tracker/stop"),
        ("/a/b", [], "image", "/a/b/image"),
        ("/a/b", [], "~/stop", "/a/b/tracker/stop"),
        ("/a", ["image:=/camera/image_raw"], "image", "/camera/image_raw"),
        ("/a", ["/a/image:=cam"], "image", "/a/cam"),
        ("/a", ["image:=cam"], "/image", "/image"),
        ("/", ["__ns:=/b", "image:=cam"], "image", "/b/cam"),
        ("/", ["__ns:=b/", "__node:=eye"], "~/stop", "/b/eye/stop"),
        ("/", ["~/stop:=halt"], "~/stop", "/halt"),
    ],
)
def test_topics(namespace: str, rules: list[str], name: str, expected: str) -> None:
    assert parse_names("tracker", namespace, rules).topic(name) == expected


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([], "/image/compressed"),
        (["image:=/cam/raw"], "/cam/raw/compressed"),
        (["image/compressed:=/jpeg"], "/jpeg"),
        (["image:=/cam/raw", "image/compressed:=/jpeg"], "/jpeg"),
    ],
)
def test_compressed_images_follow_the_raw_ones(rules: list[str], expected: str) -> None:
    assert parse_names("tracker", "/", rules).image_topic("image", "compressed") == expected


@pytest.mark.parametrize(
    "rules",
    [["image"], ["image:="], [":=x"], ["image:=a b"], ["image:=a//b"], ["image:=1a"],
     ["image:=a/"], ["__node:=a/b"], ["__ns:=/a b"], ["image:=\x1b"]],
)  # fmt: skip
def test_malformed_rules_are_refused(rules: list[str]) -> None:
    with pytest.raises(ParameterError) as error:
        parse_names("tracker", "/", rules)
    assert str(error.value).isprintable()


def test_full_name() -> None:
    assert NodeNames("eye").full == "/eye"
    assert NodeNames("eye", "/a/b").full == "/a/b/eye"


FILE = """
/**:
  ros__parameters:
    lost: {duration: 5.0, score_threshold: 0.1}
    model: everywhere
/*/eye:
  ros__parameters:
    lost.duration: 4.0
tracker:
  ros__parameters: {model: bare}
drone:
  eye:
    ros__parameters: {model: nested}
/ship/eye:
  ros__parameters: {model: full}
"""


@pytest.mark.parametrize(
    ("node", "model", "duration"),
    [
        ("/tracker", "bare", 5.0),
        ("/other", "everywhere", 5.0),
        ("/drone/eye", "nested", 4.0),
        ("/ship/eye", "full", 4.0),
        ("/drone/tracker", "everywhere", 5.0),
        ("/a/b/eye", "everywhere", 5.0),
    ],
)
def test_parameter_files(tmp_path: Path, node: str, model: str, duration: float) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(FILE)
    values = read_parameter_file(path, node)
    assert values == {"lost.duration": duration, "lost.score_threshold": 0.1, "model": model}


def bomb() -> str:
    """A small file with 9^9 entries, because its parts refer to each other."""
    lines = ["/**:", "  ros__parameters:", "    k0: &k0 {z: 1}"]
    for i in range(1, 10):
        inner = ", ".join(f"x{j}: *k{i - 1}" for j in range(9))
        lines.append(f"    k{i}: &k{i} {{{inner}}}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must map node names"),
        ("[1, 2]", "must map node names"),
        ("a: {b: [", "cannot be read"),
        ("model: x", "must have ros__parameters below a node name, got 'model'"),
        ("a: {ros__parameters: 3}", "must map names to values"),
        ("a: &a {ros__parameters: &b {c: *b}}", "refers to itself"),
        (bomb(), "has more than 10000 entries"),
        ("\xff\x00", "cannot be read"),
        ("#" * 2_000_000, "must be at most 1048576 bytes"),
    ],
)  # fmt: skip
def test_malformed_parameter_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ParameterError, match=words) as error:
        read_parameter_file(path, "/tracker")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-p", "lost.duration=2"], "parameter must be NAME:=VALUE, got 'lost.duration=2'"),
        (["-p", "lost.duration:=ages"], "lost.duration must be float, got 'ages'"),
        (["-p", "lost.duration:=-1"], "lost.duration must be 0 to 3600, got -1"),
        (["-p", "lost.score_threshold:=0.9"], "must not exceed uncertain.score_threshold"),
        (["-p", "use_sim_time:=maybe"], "use_sim_time must be true or false"),
        (["-p", "model:=/nowhere"], "bundle /nowhere: must be a folder, but does not exist"),
        (["-r", "image"], "remapping rule must be FROM:=TO, got 'image'"),
        (["--params-file", "/nowhere.yaml"], "parameter file /nowhere.yaml cannot be read"),
    ],
)
def test_wrong_words_end_the_node_with_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cyclonedds", reason="needs cyclonedds, which is not installed")
    assert main(["node", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mixformerv2 node: ")
    assert said in error
    assert error.count("\n") == 1


def test_parameter_files_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "--print-params", "tracker_cpu"]) == 0
    printed = capsys.readouterr().out
    config = Path(__file__).resolve().parents[1] / "config" / "tracker_cpu.yaml"
    assert printed == config.read_text("utf-8")


def test_help_names_every_parameter(capsys: pytest.CaptureFixture[str]) -> None:
    from mixformerv2_ros.ros.parameters import NODE_PARAMETERS

    assert main(["node", "--help"]) == 0
    printed = capsys.readouterr().out
    for parameter in NODE_PARAMETERS:
        assert f"\n  {parameter.name}\n" in printed


@pytest.mark.parametrize("words", [["node"], ["echo", "/track"], ["play", "bag"]])
def test_without_cyclone_the_remedy_is_named(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    for name in list(sys.modules):
        if name.startswith(("cyclonedds", "mixformerv2_ros.ros.cyclonedds.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cyclonedds", None)
    assert main(words) == 2
    assert "pip install 'mixformerv2_ros[dds]'" in capsys.readouterr().err
