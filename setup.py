"""The pip project. `colcon build` uses CMakeLists.txt instead; both install the same modules."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r"<version>(.+?)</version>", (HERE / "package.xml").read_text()).group(1)

TORCH = ["torch>=2.6", "onnx>=1.16", "onnxscript>=0.1"]
DDS = ["cyclonedds>=0.10.5; python_version < '3.14'"]
REPORT = ["bokeh>=3.4", "jinja2>=3.1"]
LAB = [*TORCH, *REPORT, "matplotlib>=3.8", "tensorboard>=2.11"]
TRAX = ["vot-trax>=4", "six"]

setup(
    name="mixformerv2_ros",
    version=VERSION,
    description="ROS 2 package that tracks one chosen object in a camera stream with MixFormerV2",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["mixformerv2_ros*"]),
        "mixformerv2_ros.interfaces.mixformerv2_ros",
        "mixformerv2_ros.models",
    ],
    # Interfaces are defined once, in msg/; the wheel carries a copy that bag code can read.
    package_dir={"mixformerv2_ros.interfaces.mixformerv2_ros": "msg"},
    package_data={
        "mixformerv2_ros": ["py.typed"],
        "mixformerv2_ros.interfaces": ["vision_msgs/*.msg"],
        "mixformerv2_ros.interfaces.mixformerv2_ros": ["*.msg"],
        "mixformerv2_ros.models": ["default/*"],
        "mixformerv2_ros.lab.evaluation": ["*.txt", "*.css"],
        "mixformerv2_ros.lab.reports": ["*.js", "*.css"],
    },
    install_requires=[
        "numpy>=1.26",
        # The headless wheel: opencv-python needs libGL and glib, which a fresh machine lacks.
        "opencv-python-headless>=4.6",
        "onnxruntime>=1.17",
        "rosbags>=0.11",
        # Compression of recordings that are cut off; rosbags itself needs both.
        "lz4",
        "backports.zstd; python_version < '3.14'",
        "safetensors>=0.4",
        "pyyaml>=6",
        "tqdm>=4.60",
    ],
    extras_require={
        "torch": TORCH,
        "report": REPORT,
        "lab": LAB,
        "dds": DDS,
        "trax": TRAX,
        "dev": [
            *LAB,
            *DDS,
            *TRAX,
            "pytest>=8",
            "pytest-xdist",
            "hypothesis",
            "ruff",
            "mypy",
            "import-linter>=2",
            "types-PyYAML",
            "catkin_pkg",
            "got10k",
            "mcap-ros2-support",
            "rosbags-image",
            "opencv-contrib-python-headless>=4.6",
        ],
    },
    entry_points={
        "console_scripts": ["mixformerv2 = mixformerv2_ros.cli:main"],
        "pytest11": ["mixformerv2_ros = mixformerv2_ros.pytest_plugin"],
    },
    zip_safe=False,
)
