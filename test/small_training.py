"""Settings of trainings that take seconds: a network of few channels on miniature data."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from mixformerv2_ros.lab.training.config import (
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    PruningConfig,
    RuntimeConfig,
    ScheduleConfig,
    TrainConfig,
    ValidationConfig,
)
from mixformerv2_ros.lab.training.mixvit import MixViT, TeacherSpec

MODEL = ModelConfig(
    width=32, heads=2, depth=4, mlp_ratio=4.0, bins=16, template_size=32, search_size=64,
    head_channels=16,
)  # fmt: skip
TEACHER = TeacherSpec(
    width=32, heads=2, depth=4, mlp_ratio=4.0, head="corner_up", head_channels=16,
    template_size=32, search_size=64,
)  # fmt: skip
MIXVIT_B = TeacherSpec(
    width=768, depth=12, heads=12, mlp_ratio=4.0, head="corner_up", head_channels=384,
    template_size=128, search_size=288,
)  # fmt: skip
"""MixViT-B, teacher of students with 72 bins."""

MIXVIT_L = dataclasses.replace(
    MIXVIT_B, width=1024, depth=24, heads=16, template_size=192, search_size=384
)  # fmt: skip
"""MixViT-L, teacher of students with 96 bins."""

BOXES = LossConfig(edge=0.0, foreground=0.0, score=0.0)
DISTILLED = dataclasses.replace(BOXES, kl=5.0)
DEEP = dataclasses.replace(DISTILLED, features=0.2)


def small_config(data: Path, output: Path, **changes: Any) -> TrainConfig:
    """Plain training of a few steps; `changes` replace settings."""
    base = TrainConfig(
        preset="T",
        output=str(output),
        seed=3,
        model=MODEL,
        data=DataConfig(folder=str(data), batch_size=4),
        optimizer=OptimizerConfig(
            param_groups="name",
            learning_rate=1e-3,
            backbone_learning_rate=1e-3,
            weight_decay=1e-4,
            ema_decay=0.5,
        ),
        schedule=ScheduleConfig(steps=4, epoch_samples=8, warmup=0, cooldown=0.0),
        validation=ValidationConfig(every=2, samples=8),
        runtime=RuntimeConfig(workers=0, threads=1),
    )
    return changed(base, **changes)


def changed(config: TrainConfig, **settings: Any) -> TrainConfig:
    """Replace settings by their own name, without that of their group.

    A name that several groups have is that of the first of them (`epochs` is the schedule's).
    """
    for name, value in settings.items():
        groups = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        if name in groups:
            config = dataclasses.replace(config, **{name: value})
            continue
        group = next(key for key, entry in groups.items() if hasattr(entry, name))
        entry = dataclasses.replace(groups[group], **{name: value})
        config = dataclasses.replace(config, **{group: entry})
    return config


def tokens_stage(data: Path, output: Path, teacher: Path, **changes: Any) -> TrainConfig:
    """Dense-to-sparse from a teacher's backbone."""
    stage = {"stage": "dense-to-sparse", "init_from": str(teacher), "init_stage": "teacher"}
    return small_config(
        data, output, **{**stage, "teacher": str(teacher), "loss": DISTILLED, **changes}
    )


def pruning_stage(data: Path, output: Path, start: Path, **changes: Any) -> TrainConfig:
    """Layers 0 and 2 of four fade out over two epochs of two steps."""
    settings: dict[str, Any] = {
        "stage": "pruning",
        "init_from": str(start),
        "init_stage": "dense-to-sparse",
        "teacher": str(start),
        "pruning": PruningConfig(layers=(0, 2), epochs=3),
        "loss": DEEP,
        "epochs": 2,
    }
    return small_config(data, output, **{**settings, **changes})


def shallow_stage(
    data: Path, output: Path, start: Path, teacher: Path, **changes: Any
) -> TrainConfig:
    """The two layers that are left, taught by all four."""
    settings: dict[str, Any] = {
        "stage": "deep-to-shallow",
        "model": dataclasses.replace(MODEL, depth=2),
        "init_from": str(start),
        "init_stage": "pruning",
        "keep_layers": (1, 3),
        "teacher": str(teacher),
        "feature_pairs": ((0, 1), (1, 3)),
        "loss": DEEP,
    }
    return small_config(data, output, **{**settings, **changes})


def reduction_stage(data: Path, output: Path, start: Path, **changes: Any) -> TrainConfig:
    """MLP ratio 1 instead of 4."""
    settings: dict[str, Any] = {
        "stage": "mlp-reduction",
        "model": dataclasses.replace(MODEL, depth=2, mlp_ratio=1.0),
        "init_from": str(start),
        "init_stage": "deep-to-shallow",
        "teacher": str(start),
        "feature_pairs": ((0, 0), (1, 1)),
        "loss": DEEP,
    }
    return small_config(data, output, **{**settings, **changes})


def score_stage(data: Path, output: Path, start: Path, **changes: Any) -> TrainConfig:
    """The score head alone, on the network of the reduction."""
    settings: dict[str, Any] = {
        "stage": "score",
        "model": dataclasses.replace(MODEL, depth=2, mlp_ratio=1.0),
        "init_from": str(start),
        "init_stage": "mlp-reduction",
        "loss": LossConfig(l1=0, ciou=0, edge=0, foreground=0, score=1, score_label="presence"),
    }
    return small_config(data, output, **{**settings, **changes})


def save_mixvit(path: Path, spec: TeacherSpec = TEACHER) -> Path:
    """Write a MixViT with random weights the way the parent project does."""
    torch.manual_seed(0)
    net = MixViT(spec)
    net.backbone.reset_parameters()
    torch.save({"net": net.state_dict(), "spec": dataclasses.asdict(spec)}, path)
    return path


def save_mae(path: Path, width: int, depth: int) -> Path:
    """Write what a masked autoencoder's file holds, with random weights."""
    spec = dataclasses.replace(TEACHER, width=width, depth=depth)
    torch.manual_seed(1)
    net = MixViT(spec)
    net.backbone.reset_parameters()
    state = {
        name.removeprefix("backbone."): value
        for name, value in net.state_dict().items()
        if name.startswith("backbone.") and "pos_embed" not in name
    }
    extras = {
        "cls_token": torch.zeros(1, 1, width),
        "pos_embed": torch.zeros(1, 197, width),
        "mask_token": torch.zeros(1, 1, width),
        "norm.weight": torch.ones(width),
    }
    torch.save({"model": {**state, **extras}}, path)
    return path


def save_backbone(
    path: Path, side: int = 64, stride: int = 8, channels: int = 6
) -> tuple[Path, np.ndarray]:
    """Write a graph with the interface of NanoTrack's backbones: one convolution."""
    weights = np.random.default_rng(0).normal(size=(channels, 3, stride, stride)) / 255
    cells = side // stride
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "w"], ["output"], strides=[stride, stride])],
        "backbone",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, channels, cells, cells])],
        [onnx.numpy_helper.from_array(weights.astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)]), path)
    return path, weights


def write_data_sets(root: Path) -> None:
    """Write miniatures of the four published data sets, eight frames to a sequence."""
    boxes = "".join(f"{4 + 3 * n},{6 + 2 * n},14,16\n" for n in range(8))
    names = [f"GOT-10k_Train_{number:06}" for number in range(1, 9)]
    for name in names:
        _frames(root / "got10k" / name, [f"{n:08}.jpg" for n in range(1, 9)])
        _write(root / "got10k" / name / "groundtruth.txt", boxes)
        _write(root / "got10k" / name / "absence.label", "0\n" * 8)
        _write(root / "got10k" / name / "cover.label", "8\n" * 8)
    _write(root / "got10k" / "list.txt", "\n".join(names) + "\n")
    _write(root / "got10k" / "got10k_train_split.txt", "0\n3\n4\n5\n")
    _write(root / "got10k" / "got10k_val_split.txt", "1\n2\n")
    _write(root / "got10k" / "got10k_vot_exclude.txt", "GOT-10k_Train_000008\n")
    _write(root / "lasot" / "training_set.txt", "fox-1\n")
    fox = root / "lasot" / "fox" / "fox-1"
    _frames(fox / "img", [f"{n:08}.jpg" for n in range(1, 9)])
    _write(fox / "groundtruth.txt", boxes)
    for name in ("full_occlusion.txt", "out_of_view.txt"):
        _write(fox / name, ",".join("0" * 8) + "\n")
    for part in range(12):
        folder = root / "trackingnet" / f"TRAIN_{part}"
        _frames(folder / "frames" / f"clip{part}_0", [f"{n}.jpg" for n in range(8)])
        _write(folder / "anno" / f"clip{part}_0.txt", boxes)
    _frames(root / "coco" / "train2017", ["7.jpg"])
    objects = {
        "images": [{"id": 7, "file_name": "7.jpg"}],
        "annotations": [{"id": 1, "image_id": 7, "bbox": [9, 8, 30, 20.5], "iscrowd": 0}],
    }
    _write(root / "coco" / "annotations" / "instances_train2017.json", json.dumps(objects))


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _frames(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        image = np.random.default_rng(number).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        assert cv2.imwrite(str(folder / name), image)
