"""The pip project. `colcon build` uses CMakeLists.txt instead; both install the same modules.

MIXFORMERV2_ROS_LAB=OFF in the environment builds a wheel without the laboratory, like the CMake
option of that name.
"""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r"<version>(.+?)</version>", (HERE / "package.xml").read_text()).group(1)

LAB_SWITCH = os.environ.get("MIXFORMERV2_ROS_LAB", "ON")
if LAB_SWITCH not in ("ON", "OFF"):
    raise SystemExit(f"MIXFORMERV2_ROS_LAB must be ON or OFF, got {LAB_SWITCH!r}")
WITHOUT_LAB = LAB_SWITCH == "OFF"

TORCH = ["torch>=2.6"]
DDS = ["cyclonedds>=11.0.1; python_version < '3.14'"]
REPORT = ["bokeh>=3.8", "jinja2>=3.1"]
EXPORT = ["onnx>=1.16", "onnxscript>=0.1"]
LAB = [*TORCH, *EXPORT, *REPORT, "cachetools>=5", "matplotlib>=3.8", "tensorboard>=2.11"]
OPENVINO = ["openvino>=2025.0"]
WEB = ["tornado>=6.1"]
MAVLINK = ["pymavlink>=2.4.40", "pyserial>=3.5"]
RERUN = ["rerun-sdk>=0.23"]
TRAX = ["vot-trax>=4", "six"]

setup(
    name="mixformerv2_ros",
    version=VERSION,
    description="Visual object tracking with MixFormerV2 for ROS 2, recordings and videos",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="mixformerv2_ros developers",
    author_email="mixformerv2_ros@example.org",
    license="MIT",
    keywords=["ROS 2", "visual object tracking", "single object tracking", "MixFormerV2"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 15)),
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=[
        *find_packages(
            include=["mixformerv2_ros*"], exclude=["mixformerv2_ros.lab*"] if WITHOUT_LAB else []
        ),
        "mixformerv2_ros.interfaces.mixformerv2_ros",
        "mixformerv2_ros.models",
        *([] if WITHOUT_LAB else ["mixformerv2_ros.lab.settings"]),
    ],
    # Interfaces are defined once, in msg/; the wheel carries a copy that bag code can read. So it
    # does of the settings of trainings.
    package_dir={
        "mixformerv2_ros.interfaces.mixformerv2_ros": "msg",
        "mixformerv2_ros.lab.settings": "config/training",
    },
    package_data={
        "mixformerv2_ros": ["py.typed"],
        "mixformerv2_ros.interfaces": ["vision_msgs/*.msg"],
        "mixformerv2_ros.interfaces.mixformerv2_ros": ["*.msg"],
        "mixformerv2_ros.models": ["default/*", "tiny/*"],
        "mixformerv2_ros.ros.web": ["static/*"],
        "mixformerv2_ros.lab.datasets": ["*.txt"],
        "mixformerv2_ros.lab.evaluation": ["*.txt"],
        "mixformerv2_ros.lab.reports": ["templates/*"],
        "mixformerv2_ros.lab.settings": ["*.yaml", "demo/*.yaml"],
    },
    install_requires=[
        "numpy>=1.26",
        # The headless wheel: opencv-python needs libGL and glib, which a fresh machine lacks.
        "opencv-python-headless>=4.6.0.66",
        "onnxruntime>=1.18",
        "rosbags>=0.11.2",
        # Recordings that are cut off: their records, and compression (mcap itself needs both).
        "mcap>=1.2.1",
        "lz4",
        "zstandard",
        "safetensors>=0.4",
        "pyyaml>=6",
        "tqdm>=4.60",
    ],
    extras_require={
        "torch": TORCH,
        "openvino": OPENVINO,
        "report": REPORT,
        "lab": LAB,
        "dds": DDS,
        "trax": TRAX,
        "web": WEB,
        "rerun": RERUN,
        "mavlink": MAVLINK,
        "dev": [
            *LAB,
            *DDS,
            *WEB,
            *RERUN,
            *MAVLINK,
            *TRAX,
            *OPENVINO,
            "pytest>=8",
            "pytest-xdist>=3.5",
            "pre-commit",
            "hypothesis",
            "ruff",
            "mypy",
            "import-linter>=2",
            "types-PyYAML",
            "types-cachetools",
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
    # setuptools packs all that it finds in its build folder, also what an earlier build left there.
    options={"build": {"build_base": "build/without_lab" if WITHOUT_LAB else "build/with_lab"}},
    zip_safe=False,
)
