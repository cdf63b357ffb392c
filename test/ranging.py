"""What tests of the target pose share: calibrations, depth images, clouds and tracks."""

from __future__ import annotations

from typing import Any

import numpy as np

from mixformerv2_ros.interfaces import typestore
from mixformerv2_ros.ros.messages import header_message
from mixformerv2_ros.tracking.boxes import Box
from mixformerv2_ros.tracking.session import State, Track

TYPES = typestore().types
WIDTH, HEIGHT = 640, 480
K = np.array([[500.0, 0, 319.5], [0, 510.0, 239.5], [0, 0, 1]])
FRAME = "camera_optical_frame"

BOX = Box(300, 200, 40, 80)

FLOAT32, FLOAT64, UINT8 = 7, 8, 2


def camera_info(
    k: Any = K,
    d: Any = (),
    model: str = "plumb_bob",
    *,
    width: int = WIDTH,
    height: int = HEIGHT,
    p: Any = None,
    binning: tuple[int, int] = (0, 0),
    roi: tuple[int, int, int, int] = (0, 0, 0, 0),
    stamp: int = 0,
) -> Any:
    """A calibration; `roi` is x, y, width, height."""
    x, y, w, h = roi
    region = TYPES["sensor_msgs/msg/RegionOfInterest"](
        x_offset=x, y_offset=y, height=h, width=w, do_rectify=False
    )
    projection = np.column_stack([np.asarray(k).reshape(3, 3), np.zeros(3)]) if p is None else p
    return TYPES["sensor_msgs/msg/CameraInfo"](
        header=header_message(TYPES, stamp, FRAME),
        height=height,
        width=width,
        distortion_model=model,
        d=np.asarray(d, np.float64),
        k=np.asarray(k, np.float64).reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.asarray(projection, np.float64).reshape(-1),
        binning_x=binning[0],
        binning_y=binning[1],
        roi=region,
    )


def depth_image(
    depths: np.ndarray, *, stamp: int = 0, bigendian: bool = False, pad: int = 0
) -> Any:
    """A depth image of (height, width) metres (float) or millimetres (integers); rows padded."""
    kind, encoding = ("f4", "32FC1") if depths.dtype.kind == "f" else ("u2", "16UC1")
    rows = np.ascontiguousarray(depths.astype((">" if bigendian else "<") + kind)).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, pad)), constant_values=0xAB)
    return TYPES["sensor_msgs/msg/Image"](
        header=header_message(TYPES, stamp, FRAME),
        height=depths.shape[0],
        width=depths.shape[1],
        encoding=encoding,
        is_bigendian=int(bigendian),
        step=rows.shape[1],
        data=rows.reshape(-1),
    )


def cloud(
    xyz: np.ndarray,
    *,
    kind: str = "f4",
    bigendian: bool = False,
    point_pad: int = 4,
    row_pad: int = 0,
    stamp: int = 0,
    frame: str = FRAME,
    names: str = "xyz",
) -> Any:
    """A cloud of (height, width, 3) metres, laid out as drivers do: x y z, padding, a colour."""
    order = ">" if bigendian else "<"
    size = np.dtype(kind).itemsize
    layout = np.dtype(
        {
            "names": [*"xyz", "rgb"],
            "formats": [order + kind] * 3 + ["u4"],
            "offsets": [0, size, 2 * size, 3 * size + point_pad],
            "itemsize": 3 * size + point_pad + 4 + point_pad,
        }
    )
    points = np.zeros(xyz.shape[:2], layout)
    for index, name in enumerate("xyz"):
        points[name] = xyz[..., index]
    points["rgb"] = 0x7FC0_FFEE
    rows = points.view(np.uint8).reshape(xyz.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, row_pad)), constant_values=0xCD)
    datatype = {"f4": FLOAT32, "f8": FLOAT64, "u1": UINT8}[kind]
    fields = [
        TYPES["sensor_msgs/msg/PointField"](
            name=name, offset=index * size, datatype=datatype, count=1
        )
        for index, name in enumerate(names)
    ]
    return TYPES["sensor_msgs/msg/PointCloud2"](
        header=header_message(TYPES, stamp, frame),
        height=xyz.shape[0],
        width=xyz.shape[1],
        fields=fields,
        is_bigendian=bigendian,
        point_step=layout.itemsize,
        row_step=rows.shape[1],
        data=rows.reshape(-1),
        is_dense=False,
    )


def track(
    box: Box = BOX,
    stamp: int = 10**9,
    state: State = State.TRACKING,
    target_id: str = "target",
    edge_std: tuple[float, float, float, float] = (2.0, 3.0, 2.5, 4.0),
    frame: str = FRAME,
) -> Track:
    return Track(
        target_id=target_id,
        stamp_ns=stamp,
        frame_id=frame,
        box=box,
        confidence=0.9,
        edge_std=edge_std,
        state=state,
        template_age_ns=0,
        template_updated=False,
        depth=4,
    )
