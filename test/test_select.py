"""Drawing a box: the logic without a window, and in a window on files."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranging import track as a_track
from recordings import (
    HEIGHT,
    PERIOD_NS,
    START_NS,
    WIDTH,
    picture,
    run_command,
    write_bag,
    write_images,
    write_video,
)
from screen import DRAWING, DRAWN, RED, Screen, Session, red_target, where
from waiting import wait_for

from mixformerv2_ros.cli import select
from mixformerv2_ros.errors import (
    ImageError,
    MiddlewareError,
    ParameterError,
    SourceError,
    WindowError,
)
from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.box_selection.images import FileImages, ShownImage
from mixformerv2_ros.ros.box_selection.selector import Selector
from mixformerv2_ros.ros.box_selection.topic_images import TopicImages
from mixformerv2_ros.ros.box_selection.track_monitor import TIMEOUT_S, TrackMonitor
from mixformerv2_ros.ros.box_selection.viewport import Viewport
from mixformerv2_ros.ros.messages import image_message, stamp_ns, track_message
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.frame import Frame
from mixformerv2_ros.tracking.pixels import Pixels
from mixformerv2_ros.tracking.session import State


def shown(index: int) -> ShownImage:
    stamp = START_NS + index * PERIOD_NS
    return ShownImage(Frame(Pixels.from_array(picture(index)), stamp, "cam"), index)


# The viewport


@given(
    width=st.integers(1, 8000), height=st.integers(1, 8000),
    area=st.tuples(st.integers(1, 4000), st.integers(1, 4000)),
    x=st.floats(-100, 5000), y=st.floats(-100, 5000),
)  # fmt: skip
def test_places_in_the_window_are_pixels_of_the_image(
    width: int, height: int, area: tuple[int, int], x: float, y: float
) -> None:
    viewport = Viewport.fit(width, height, *area)
    column, row = viewport.to_image(x, y)
    assert 0 <= column <= width
    assert 0 <= row <= height
    left, top, right, bottom = viewport.to_window(Box(0, 0, width, height))
    assert -0.01 <= left <= right <= area[0] + 0.01
    assert -0.01 <= top <= bottom <= area[1] + 0.01
    if left <= x <= right and top <= y <= bottom:
        again = viewport.to_window(Box(column, row, 0, 0))[:2]
        assert again == pytest.approx((x, y), abs=0.01)


@pytest.mark.parametrize(("area", "size"), [((320, 240), (320, 240)), ((80, 200), (80, 60))])
def test_the_picture_is_the_image_in_the_size_of_the_window(
    area: tuple[int, int], size: tuple[int, int]
) -> None:
    viewport = Viewport.fit(WIDTH, HEIGHT, *area)
    ppm = viewport.picture(Pixels.from_array(picture(3)))
    image = cv2.imdecode(np.frombuffer(ppm, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert image.shape[1::-1] == size
    expected = cv2.resize(picture(3), size, interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - expected).mean() < 2


def test_the_picture_of_16_bits_is_as_bright_as_the_bits_used() -> None:
    words = np.full((HEIGHT, WIDTH), 0x0C00, np.uint16)  # of 12 bits, three quarters
    ppm = Viewport.fit(WIDTH, HEIGHT, WIDTH, HEIGHT).picture(Pixels.from_array(words, "mono16"))
    image = cv2.imdecode(np.frombuffer(ppm, np.uint8), cv2.IMREAD_COLOR)
    assert int(image.min()) == int(image.max()) == 0xC0


# The selector


class Tape:
    """Images by the hand of the test."""

    title = "tape"

    def __init__(self, live: bool = True) -> None:
        self.live = live
        self.next: list[Any] = []
        self.held: list[bool] = []
        self.steps = 0

    def take(self) -> ShownImage | None:
        item = self.next.pop() if self.next else None
        if isinstance(item, Exception):
            raise item
        return item

    def hold(self, held: bool) -> None:
        self.held.append(held)

    def step(self) -> None:
        self.steps += 1

    def status(self) -> str:
        return ""


class Desk:
    """A selector over a tape, and the boxes that were chosen."""

    def __init__(self, live: bool = True, once: bool = False, confirm: bool = True) -> None:
        self.tape = Tape(live)
        self.chosen: list[tuple[Box, ShownImage]] = []
        self.selector = Selector(self.tape, self.choose, once=once, confirm=confirm)

    def choose(self, box: Box, image: ShownImage) -> str:
        self.chosen.append((box, image))
        return "sent"

    def show(self, index: int) -> bool:
        self.tape.next.append(shown(index))
        return self.selector.tick()

    def drag(self, x1: float, y1: float, x2: float, y2: float) -> None:
        self.selector.press(x1, y1)
        self.selector.move((x1 + x2) / 2, (y1 + y2) / 2)
        self.selector.release(x2, y2)


def index_of(selector: Selector) -> int | None:
    assert selector.shown is not None
    return selector.shown.index


def test_the_newest_image_is_shown_until_the_mouse_is_pressed() -> None:
    desk = Desk()
    assert not desk.selector.tick()
    assert desk.selector.status == "waiting for an image"
    assert desk.show(0)
    assert desk.show(1)
    desk.selector.press(10, 20)
    assert not desk.show(2)
    desk.selector.move(60, 50)
    assert desk.selector.drawing
    desk.selector.release(50, 40)
    assert not desk.show(3)
    assert desk.selector.box == Box(10, 20, 40, 20)
    assert desk.selector.status == "box 10,20,40,20"
    assert "enter" in desk.selector.help
    desk.selector.key("enter")
    ((box, image),) = desk.chosen
    assert (box, image.index) == (Box(10, 20, 40, 20), 1)
    assert (desk.selector.box, desk.selector.status) == (None, "sent")
    assert desk.show(4)
    assert index_of(desk.selector) == 4
    assert desk.tape.held == [True, True, False]


@pytest.mark.parametrize(
    "corners", [(30, 40, 70, 90), (70, 90, 30, 40), (70, 40, 30, 90), (30, 90, 70, 40)]
)
def test_a_box_may_be_dragged_from_any_corner(corners: tuple[int, int, int, int]) -> None:
    desk = Desk()
    desk.show(0)
    desk.drag(*corners)
    assert desk.selector.box == Box(30, 40, 40, 50)


@pytest.mark.parametrize("corners", [(10, 10, 10, 10), (10, 10, 90, 15), (10, 10, 15, 90)])
def test_a_box_too_small_to_track_is_thrown_away(corners: tuple[int, int, int, int]) -> None:
    desk = Desk()
    desk.show(0)
    desk.drag(*corners)
    assert desk.selector.box is None
    assert "must be at least 10 px wide and high, got" in desk.selector.status
    desk.selector.key("enter")
    assert not desk.chosen
    assert desk.show(1)


def test_a_box_can_be_drawn_again() -> None:
    desk = Desk()
    desk.show(0)
    desk.drag(10, 10, 40, 40)
    desk.selector.key("r")
    assert desk.selector.box is None
    assert desk.show(1)
    desk.drag(20, 20, 60, 60)
    desk.drag(30, 30, 60, 60)
    desk.selector.key("enter")
    assert [box for box, _ in desk.chosen] == [Box(30, 30, 30, 30)]


def test_nothing_is_chosen_while_the_mouse_is_pressed() -> None:
    desk = Desk()
    desk.selector.press(10, 10)  # no image yet
    assert not desk.selector.drawing
    desk.show(0)
    desk.selector.release(90, 90)  # pressed elsewhere
    desk.selector.press(10, 10)
    desk.selector.move(60, 60)
    desk.selector.key("enter")
    assert not desk.chosen


def test_a_box_may_be_taken_without_a_key() -> None:
    desk = Desk(confirm=False)
    desk.show(0)
    desk.drag(10, 10, 12, 12)
    assert not desk.chosen
    desk.drag(10, 10, 42, 42)
    assert [box for box, _ in desk.chosen] == [Box(10, 10, 32, 32)]
    assert desk.show(1)


def test_space_pauses_and_goes_on() -> None:
    desk = Desk()
    desk.show(0)
    desk.selector.key("space")
    assert not desk.show(1)
    assert desk.selector.status == f"paused at frame 0, {START_NS / 1e9:.3f} s"
    desk.selector.key("space")
    assert desk.selector.tick()
    assert index_of(desk.selector) == 1


def test_a_file_begins_paused_at_its_first_image_and_can_be_stepped() -> None:
    desk = Desk(live=False, once=True)
    assert desk.show(0)
    assert not desk.show(1)
    desk.tape.next.clear()
    desk.selector.key("right")
    assert desk.tape.steps == 1
    assert desk.show(1)
    assert not desk.show(2)
    desk.drag(10, 10, 40, 40)
    desk.selector.key("right")  # would show another image than the box was drawn on
    assert desk.tape.steps == 1
    desk.selector.key("enter")
    assert desk.chosen[0][1].index == 1
    assert desk.selector.done


@pytest.mark.parametrize("key", ["q", "escape"])
def test_the_user_may_leave(key: str) -> None:
    desk = Desk()
    desk.selector.key("x")
    assert not desk.selector.done
    desk.selector.key(key)
    assert desk.selector.done


def test_an_image_that_cannot_be_decoded_is_told_of() -> None:
    desk = Desk()
    desk.tape.next.append(ImageError("image must have at least one pixel"))
    assert not desk.selector.tick()
    assert desk.selector.status == "cannot decode image: image must have at least one pixel"
    desk.tape.next.append(SourceError("gone"))
    with pytest.raises(SourceError, match="gone"):
        desk.selector.tick()


# Files


def take(images: FileImages) -> ShownImage:
    found: list[ShownImage | None] = []
    wait_for(lambda: found.append(images.take()) or found[-1] is not None, "an image", 10)
    assert found[-1] is not None
    return found[-1]


def test_a_paused_file_gives_one_image_per_step() -> None:
    """All images have one stamp: nothing but the pause keeps the reader from the end."""
    asked: list[int] = []

    def read() -> Iterator[ShownImage]:
        for index in range(12):
            asked.append(index)
            yield ShownImage(shown(0).frame, index)

    with FileImages("file", False, read) as images:
        for index in range(6):
            assert take(images).index == index
            wait_for(lambda index=index: len(asked) > index + 1, "the reader to go on", 10)
            assert images.take() is None
            images.step()
        assert asked[-1] <= 7
        assert images.status() == ""


def test_a_file_is_read_at_the_speed_of_its_stamps() -> None:
    def read() -> Iterator[ShownImage]:
        yield from map(shown, range(12))

    with FileImages("file", False, read) as images:
        assert take(images).index == 0
        began = time.monotonic()
        images.hold(False)
        wait_for(lambda: images.status() == "end of file", "the end", 10)
        assert time.monotonic() - began > 10 * PERIOD_NS / 1e9
        assert take(images).index == 11
        assert images.take() is None


def test_a_camera_does_not_wait() -> None:
    def read() -> Iterator[ShownImage]:
        yield from map(shown, range(5))

    with FileImages("camera", True, read) as images:
        images.hold(True)
        wait_for(lambda: images.status(), "the end", 10)
        assert take(images).index == 4


def test_what_is_wrong_with_a_file_is_told_where_its_images_are_taken() -> None:
    def read() -> Iterator[ShownImage]:
        yield shown(0)
        raise SourceError("recording is cut off")

    with FileImages("file", True, read) as images:
        assert take(images).index == 0
        with pytest.raises(SourceError, match="cut off"):
            take(images)


def test_closing_does_not_wait_for_a_camera_that_gives_no_image() -> None:
    never = threading.Event()

    def read() -> Iterator[ShownImage]:
        never.wait(60)
        yield shown(0)

    began = time.monotonic()
    with FileImages("camera", True, read):
        pass
    assert time.monotonic() - began < 30
    never.set()


# The command


def test_sources_are_told_apart(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 2)
    (file,) = bag.glob("*.mcap")
    video = write_video(tmp_path / "v.avi", 2)
    folder = write_images(tmp_path / "img", 2)
    kinds = {bag: select.BAG, file: select.BAG, video: select.VIDEO, folder: select.VIDEO}
    assert {path: select.source_kind(str(path)) for path in kinds} == kinds
    for name, kind in (
        ("0", select.CAMERA),
        ("/camera/image_raw", select.TOPIC),
        ("image", "topic"),
    ):
        assert select.source_kind(name) == kind


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.mp4"], "source must be an existing file or a topic name, got nothing.mp4"),
        (["/image", "--track"], "--track requires a recording or a video, got topic /image"),
        (["0", "--track"], "--track requires a recording or a video, got camera 0"),
        (["/image", "--box-file", "/no/such/box.json"], "folder of output .* does not exist"),
    ],
)
def test_bad_input_is_refused_before_a_window_opens(words: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        run_command("select", *words)


def test_options_of_the_tracking_are_checked_before_anything_is_drawn(
    tmp_path: Path,
) -> None:
    with pytest.raises(ParameterError, match=r"unrecognized .*see mixformerv2 track --help"):
        run_command("select", write_video(tmp_path / "v.avi", 2), "--track", "--no-such-option")


def test_a_display_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tkinter", reason="needs Tk (Debian package python3-tk), which is absent")
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(WindowError, match=r"^cannot open a window: .*DISPLAY") as error:
        run_command("select", write_video(tmp_path / "v.avi", 2))
    assert "\n" not in str(error.value)


def test_tk_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(WindowError, match="Tk is not installed: install"):
        run_command("select", write_video(tmp_path / "v.avi", 2))


class Publisher:
    """Keeps the boxes that are published, with a number of subscriptions."""

    types = typestore().types

    def __init__(self, subscriptions: int) -> None:
        self.subscriptions = subscriptions
        self.boxes: list[Any] = []

    def publish(self, message: Any) -> tuple[str, int]:
        self.boxes.append(message)
        return "/init_box", self.subscriptions


def test_a_topic_is_found_by_its_publisher() -> None:
    images = TopicImages("/c", Publisher(1))
    assert images.status() == "no publisher on /c; no other image topics found"
    published = {"/a": "sensor_msgs/msg/Image", "/b": "std_msgs/msg/String"}
    assert images.set_published_topics(published) is None
    assert images.status() == "no publisher on /c; image topics: /a"
    assert images.set_published_topics({**published, "/c": "sensor_msgs/msg/CompressedImage"}) == (
        "sensor_msgs/msg/CompressedImage"
    )
    assert images.set_published_topics({"/c": "sensor_msgs/msg/Image"}) is None
    assert images.status() == ""
    with pytest.raises(MiddlewareError, match="topic /b must be of type sensor_msgs/msg/Image or"):
        TopicImages("/b", Publisher(1)).set_published_topics(published)


def test_the_newest_message_of_a_topic_is_shown() -> None:
    images = TopicImages("/c", Publisher(1))
    assert images.take() is None
    for index in range(3):
        stamp = START_NS + index
        images.receive(image_message(Publisher.types, picture(index), "rgb8", stamp, "cam"))
    newest = images.take()
    assert newest is not None
    assert (newest.frame.stamp_ns, newest.frame.frame_id) == (START_NS + 2, "cam")
    assert images.take() is None
    images.failure = MiddlewareError("the domain is gone")
    with pytest.raises(MiddlewareError, match="gone"):
        images.take()


@pytest.mark.parametrize(
    ("subscriptions", "line"),
    [
        (1, "box 1.5,2,30,40 published on /init_box"),
        (0, "box 1.5,2,30,40 published, but /init_box has no subscribers; is the tracker running?"),
    ],
)
def test_a_sent_box_carries_stamp_and_frame_of_its_image(subscriptions: int, line: str) -> None:
    publisher = Publisher(subscriptions)
    images = TopicImages("/c", publisher)
    assert images.publish_box(Box(1.5, 2, 30, 40), "x", shown(4)) == line
    (message,) = publisher.boxes
    assert stamp_ns(message) == START_NS + 4 * PERIOD_NS
    assert (message.header.frame_id, message.target_id) == ("cam", "x")
    assert (message.x, message.y, message.w, message.h) == (1.5, 2, 30, 40)


def test_the_tracker_answers_or_not() -> None:
    now = 0.0
    monitor = TrackMonitor(lambda: now)
    types = typestore().types
    monitor.receive_track(track_message(types, a_track(target_id="target")))
    assert monitor.status() == ""
    monitor.start("")
    assert monitor.status() == ""
    monitor.receive_track(track_message(types, a_track(target_id="other")))
    monitor.receive_track(track_message(types, a_track(target_id="target", state=State.LOST)))
    assert monitor.status() == "target: LOST 0.90"
    now = TIMEOUT_S + 0.1
    assert monitor.status() == "no track received for target; see the tracker's log"
    monitor.receive_track(track_message(types, a_track(target_id="target")))
    assert monitor.status() == "target: TRACKING 0.90"
    # A stranger may publish anything.
    for field, value in (("state", 77), ("sec", -5)):
        foreign = track_message(types, a_track(target_id="target"))
        setattr(foreign if field == "state" else foreign.header.stamp, field, value)
        monitor.receive_track(foreign)
    assert monitor.status().startswith("malformed track of target: stamp of a track must be")
    monitor.receive_track(track_message(types, a_track(target_id="target")))
    assert monitor.status() == "target: TRACKING 0.90"


# In a window


def test_a_box_on_a_video_is_stored(screen: Screen, tmp_path: Path) -> None:
    video = write_images(tmp_path / "img", 8)
    with Session(screen, video, "--box-file", tmp_path / "box.json", "--target-id", "a") as session:
        left = where(session.see(red_target, "the image"), RED)[0]
        for _ in range(3):
            session.key("Right")
        # The target moves by two pixels an image, of which the window shows each as three and more.
        moved = session.see(lambda image: where(image, RED)[0] > left + 17, "the third image")
        target = where(moved, RED)
        screen.drag(*target, drop=False)
        session.see(lambda image: where(image, DRAWING)[2] > 0, "the box being drawn")
        screen.do("mouseup", 1)
        around = pytest.approx(target, abs=4)
        session.see(lambda image: where(image, DRAWN) == around, "the box where it was drawn")
        session.key("Return")
        code, output, errors = session.ended()
    assert (code, errors) == (0, "")
    record = json.loads((tmp_path / "box.json").read_text())
    assert (record["frame"], record["stamp_ns"], record["target_id"]) == (3, 100_000_000, "a")
    assert record["box"] == pytest.approx([26, 33, 24, 18], abs=1)
    assert f"in frame 3 (0.100 s) of {video}" in output
    assert f"mixformerv2 track {video} --box " in output


def test_a_box_on_a_recording_is_tracked_at_once(screen: Screen, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", 5, compressed="png")
    words = ["--track", "-o", tmp_path / "tracks", "--json", tmp_path / "tracks.json"]
    with Session(screen, bag, *words) as session:
        target = where(session.see(red_target, "the image"), RED)
        screen.drag(*target)
        session.see(lambda image: where(image, DRAWN)[2] > 0, "the box")
        session.key("r")
        session.see(lambda image: where(image, DRAWN)[2] == 0, "the box gone")
        screen.drag(*target)
        session.key("Return")
        code, output, errors = session.ended()
    assert code == 0, errors
    assert "5 frames tracked" in output
    tracks = json.loads((tmp_path / "tracks.json").read_text())
    first = tracks["tracks"][0]
    assert [first[name] for name in "xywh"] == pytest.approx([20, 30, 24, 18], abs=1)


def test_nothing_drawn_is_no_error(screen: Screen, tmp_path: Path) -> None:
    with Session(screen, write_video(tmp_path / "v.avi", 3)) as session:
        session.see(red_target, "the image")
        session.key("q")
        assert session.ended() == (0, "", "no box drawn\n")
