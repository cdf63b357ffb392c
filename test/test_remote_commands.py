"""Stops and parameters by topic."""

from __future__ import annotations

from typing import Any

import pytest
from nodes import TYPES, Node, image, init_box
from recordings import red_box

from mixformerv2_ros.ros.live.remote_commands import RemoteCommands
from mixformerv2_ros.ros.messages import Level, make_message
from mixformerv2_ros.ros.topics import COMMANDS, SET_PARAMETER, STOP_TARGET


class Commanded:
    """A live tracker that is told by messages."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._callbacks = RemoteCommands(node.tracker, self).callbacks

    def log(self, level: Level, text: str) -> None:
        self._node.desk.log(level, text)

    def change_parameter(self, name: str, value: Any) -> None:
        self._node.tracker.set_values({name: value})

    def tell(self, topic: str, **fields: str) -> None:
        self._callbacks[topic](make_message(TYPES, COMMANDS[topic], **fields))
        self._node.settle()


def test_a_target_or_all_are_stopped() -> None:
    with Node(max_targets=3) as node:
        commanded = Commanded(node)
        for name in ("a", "b", "c"):
            node.tracker.receive_init(init_box(red_box(0), target_id=name))
        node.feed(image(0), image(1))
        commanded.tell(STOP_TARGET, data="b")
        assert node.tracker.targets == {"a", "c"}
        commanded.tell(STOP_TARGET, data="nobody\n")
        assert node.tracker.targets == {"a", "c"}
        commanded.tell(STOP_TARGET, data="")
        assert not node.tracker.targets
    assert node.desk.texts[-3:] == ["stopped: b", "no target nobody\\n", "stopped: a, c"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("lost.score_threshold", "2", "must be 0 to 1, got 2"),
        ("lost.score_threshold", "x" * 5000, "must be float, got 'xxx"),
        ("lost.score_threshold", "0.9", "lost.score_threshold"),
        ("engine", "torch", "engine"),
        ("no.such", "1", "unknown parameter no.such"),
    ],
)
def test_a_parameter_that_cannot_be_changed_is_one_line(name: str, value: str, words: str) -> None:
    with Node() as node:
        before = node.tracker.values
        Commanded(node).tell(SET_PARAMETER, key=name, value=value)
        assert node.tracker.values == before
    level, text = node.desk.lines[-1]
    assert level is Level.WARN
    assert text.startswith("parameter not changed: ")
    assert words in text
    assert "\n" not in text


def test_a_parameter_is_changed_and_shown() -> None:
    with Node() as node:
        Commanded(node).tell(SET_PARAMETER, key="lost.score_threshold", value="0.1")
        assert node.tracker.values["lost.score_threshold"] == 0.1
        node.tracker.publish_diagnostics()
    (status,) = node.desk.published["/diagnostics"][-1].status
    shown = {pair.key: pair.value for pair in status.values}
    assert shown["parameter lost.score_threshold"] == "0.1"
    assert node.desk.texts[-1] == "parameter lost.score_threshold is 0.1"
