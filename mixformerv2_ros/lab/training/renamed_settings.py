"""Former names of settings: errors name the new one, settings saved in checkpoints are migrated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RENAMED = {
    "start": "init_from",
    "start_stage": "init_stage",
    "identity_start": "model.mimetic_init",
    "drop_path": "model.drop_path",
    "data": "data.folder",
    "exclude": "data.exclude",
    "world": "data.synthetic",
    "sets": "data.sets",
    "validation_sets": "data.validation_sets",
    "sampling": "data.sampling",
    "batch": "data.batch_size",
    "groups": "optimizer.param_groups",
    "learning_rate": "optimizer.learning_rate",
    "backbone_learning_rate": "optimizer.backbone_learning_rate",
    "matrix_learning_rate": "optimizer.matrix_learning_rate",
    "weight_decay": "optimizer.weight_decay",
    "clip_norm": "optimizer.clip_norm",
    "average": "optimizer.ema_decay",
    "only": "optimizer.trainable",
    "steps": "schedule.steps",
    "epochs": "schedule.epochs",
    "epoch_samples": "schedule.epoch_samples",
    "warmup": "schedule.warmup",
    "cooldown": "schedule.cooldown",
    "drop_epoch": "schedule.drop_epoch",
    "score_label": "loss.score_label",
    "teacher": "distillation.teacher",
    "feature_pairs": "distillation.feature_pairs",
    "removal": "pruning",
    "keep": "pruning.keep_layers",
    "validate_every": "validation.every",
    "validate_epochs": "validation.every_epochs",
    "validation_samples": "validation.samples",
    "clips": "validation.clips",
    "device": "runtime.device",
    "precision": "runtime.precision",
    "workers": "runtime.workers",
    "threads": "runtime.threads",
}
"""Former name of a setting at the top of a file -> its name now."""

RENAMED_IN_GROUPS = {
    "data.synthetic": {
        "absent": "negative_ratio",
        "alike": "hard_negative_ratio",
        "gap": "max_gap",
        "near": "small_motion_prob",
        "near_reach": "small_motion_std",
        "twins": "distractor_copy_prob",
        "template_surroundings": "template_background_contrast",
    },
    "data.sampling": {
        "negative": "negative_ratio",
        "own_flip": "crop_flip",
        "template_surroundings": "template_background_contrast",
    },
    "validation.clips": {"layout": "dataset"},
}
"""Group -> former names in it -> names now."""

RENAMED_STAGES = {"removal": "pruning", "extraction": "deep-to-shallow"}
RENAMED_VALUES = {
    "stage": RENAMED_STAGES,
    "init_stage": RENAMED_STAGES,
    "data.folder": {"drawn": "generated"},
    "validation.clips.dataset": {"plain": "folder"},
}
"""Setting -> its former values -> values now."""


def new_name(path: str) -> str | None:
    """The present dotted name of a setting that was called `path`; None if it was no setting."""
    group, _, name = path.rpartition(".")
    found = RENAMED_IN_GROUPS.get(group, {}).get(name) if group else RENAMED.get(name)
    if found is None:
        return None
    return f"{group}.{found}" if group else found


def migrate(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a checkpoint holds, nested and named as they are today.

    Args:
        saved: Settings as a run saved them, from before or after the change of names.
    """
    if isinstance(saved.get("data"), Mapping):
        return {name: _renamed_values(value, name) for name, value in saved.items()}
    tree: dict[str, Any] = {}
    for name, value in saved.items():
        path = RENAMED.get(name, name)
        renamed = RENAMED_IN_GROUPS.get(path, {})
        if isinstance(value, Mapping):
            value = {renamed.get(key, key): entry for key, entry in value.items()}
        former = RENAMED_VALUES.get(path, {})
        _insert(tree, path, former.get(value, value) if isinstance(value, str) else value)
    return tree


def _renamed_values(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return {name: _renamed_values(entry, f"{path}.{name}") for name, entry in value.items()}
    return RENAMED_VALUES.get(path, {}).get(value, value) if isinstance(value, str) else value


def _insert(tree: dict[str, Any], path: str, value: Any) -> None:
    *groups, leaf = path.split(".")
    for group in groups:
        tree = tree.setdefault(group, {})
    if isinstance(value, Mapping):
        tree.setdefault(leaf, {}).update(value)
    else:
        tree[leaf] = value
