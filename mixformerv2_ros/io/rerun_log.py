"""Images, tracks, templates and search regions as entities of the Rerun viewer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rerun as rr
import rerun.blueprint as rrb

from mixformerv2_ros.io.rerun_output import RerunRecord, TargetView
from mixformerv2_ros.model.engine import EDGES
from mixformerv2_ros.overlay import COLORS
from mixformerv2_ros.tracking.session import State, Track

APPLICATION = "mixformerv2"

_SEARCH_COLOR = (150, 150, 150)


class RerunLog:
    """A recording of Rerun: a file, or what a viewer shows. Writing may block for any time.

    Entities: `image`, with `image/targets/ID/box` and `.../search_region`; `confidence/ID`,
    `edge_std/ID` (pixels), `state/ID` (changes as text), `search_region/ID`, `templates/ID`.
    Timelines: `frame` and `stamp`.
    """

    def __init__(self, destination: Path | str, name: str, is_clock: bool) -> None:
        """Create the file, or connect.

        Args:
            destination: File, or address of a viewer.
            name: Name of the recording.
            is_clock: Whether times are those of a clock; else they count from the first image.

        Raises:
            OSError: the file cannot be created.
        """
        self._is_clock = is_clock
        self._states: dict[str, State] = {}
        self._arranged: set[str] = set()
        self._stream = rr.RecordingStream(APPLICATION)
        blueprint = _blueprint(())
        if isinstance(destination, Path):
            with open(destination, "wb"):
                pass  # Rerun reports this in no kind of error that can be told from others
            self._stream.save(destination, default_blueprint=blueprint)
        else:
            self._stream.connect_grpc(destination, default_blueprint=blueprint)
        self._stream.send_recording_name(name)

    def write(self, record: RerunRecord) -> None:
        """Log one image."""
        stream = self._stream
        stream.set_time("frame", sequence=record.index)
        if self._is_clock:
            stream.set_time("stamp", timestamp=np.datetime64(record.time_ns, "ns"))
        else:
            stream.set_time("stamp", duration=np.timedelta64(record.time_ns, "ns"))
        stream.log("image", rr.EncodedImage(contents=record.image, media_type="image/jpeg"))
        self._remove({track.target_id for track in record.tracks})
        for track in record.tracks:
            self._write_track(track)
        for name, view in record.views.items():
            self._write_view(name, view)

    def close(self) -> None:
        """Write what is buffered and end the recording."""
        self._stream.flush()
        self._stream.disconnect()

    def _remove(self, present: set[str]) -> None:
        for name in self._states.keys() - present:
            del self._states[name]
            self._stream.log(["image", "targets", name], rr.Clear(recursive=True))
            self._stream.log(["search_region", name], rr.Clear(recursive=True))
            self._stream.log(["templates", name], rr.Clear(recursive=True))
            self._stream.log(["state", name], rr.TextLog("no longer tracked"))
        if present - self._arranged:
            self._arranged = present
            self._stream.send_blueprint(_blueprint(sorted(present)))

    def _write_track(self, track: Track) -> None:
        stream, name, state = self._stream, track.target_id, track.state
        label = f"{name} {track.confidence:.2f}"
        if state is not State.TRACKING:
            label += f" {state.name}"
        stream.log(
            ["image", "targets", name, "box"],
            rr.Boxes2D(
                mins=[track.box[:2]],
                sizes=[track.box[2:]],
                colors=[COLORS[state][::-1]],
                labels=[label],
                show_labels=True,
            ),
        )
        stream.log(["confidence", name], rr.Scalars([track.confidence]))
        if name not in self._states:
            stream.log(["confidence", name], rr.SeriesLines(names=[name]), static=True)
            names = [f"{name} {edge}" for edge in EDGES]
            stream.log(["edge_std", name], rr.SeriesLines(names=names), static=True)
        stream.log(["edge_std", name], rr.Scalars(track.edge_std))
        before = self._states.get(name)
        if state is not before:
            self._states[name] = state
            level = rr.TextLogLevel.WARN if state > State.TRACKING else rr.TextLogLevel.INFO
            text = state.name if before is None else f"{before.name} → {state.name}"
            stream.log(["state", name], rr.TextLog(text, level=level))

    def _write_view(self, name: str, view: TargetView) -> None:
        x, y, side = view.window
        self._stream.log(
            ["image", "targets", name, "search_region"],
            rr.Boxes2D(mins=[(x, y)], sizes=[(side, side)], colors=[_SEARCH_COLOR]),
        )
        images = {"search_region": view.search_region, "templates": view.templates}
        for entity, image in images.items():
            if image is not None:
                archetype = rr.EncodedImage(contents=image, media_type="image/jpeg")
                self._stream.log([entity, name], archetype)


def _blueprint(targets: Sequence[str]) -> rrb.Blueprint:
    """The image at the left; plots, crops and changes of state at the right."""
    crops = [
        rrb.Horizontal(
            *(
                rrb.Spatial2DView(
                    origin=rr.new_entity_path([kind, name]),
                    name=f"{name}: {kind.replace('_', ' ')}",
                )
                for kind in ("search_region", "templates")
            ),
            name=name,
        )
        for name in targets
    ]
    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Spatial2DView(origin="/image", name="image"),
            rrb.Vertical(
                rrb.TimeSeriesView(origin="/confidence", name="confidence"),
                rrb.TimeSeriesView(origin="/edge_std", name="edge standard deviations (px)"),
                *([rrb.Tabs(*crops)] if crops else []),
                rrb.TextLogView(origin="/state", name="state"),
                row_shares=[4, 4, 5, 3] if crops else [4, 4, 3],
            ),
            column_shares=[3, 2],
        ),
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
        rrb.TimePanel(state="collapsed"),
    )
