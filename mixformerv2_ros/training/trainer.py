"""The trainer: one run from a seed to a checkpoint, resumable at every checkpoint."""

from __future__ import annotations

import copy
import csv
import dataclasses
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mixformerv2_ros.errors import CheckpointError, ParameterError
from mixformerv2_ros.evaluation.sequences import read_names
from mixformerv2_ros.inference.engine import ModelSpec
from mixformerv2_ros.network.model import MixFormerV2, Output, normalize
from mixformerv2_ros.network.presets import PRESETS
from mixformerv2_ros.training import losses
from mixformerv2_ros.training.config import TrainConfig
from mixformerv2_ros.training.pictures import read_clips, read_stills
from mixformerv2_ros.training.world import World

log = logging.getLogger(__name__)

CHECKPOINT = "last.pth.tar"
_VALIDATION_SEED = 2**31


class SampleStream(Dataset[tuple[np.ndarray, ...]]):
    """The world as a map from index to arrays; index 0 is the first sample of the whole run."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.seed = seed

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        sample = self.world.sample(self.seed, index)
        present = np.float32(sample.present)
        return sample.templates, sample.search, sample.edges, np.asarray(present)


@dataclass(frozen=True)
class Batch:
    """One batch: templates (B, 2, T, T, 3) and search (B, S, S, 3) uint8, edges, presence."""

    templates: Tensor
    search: Tensor
    edges: Tensor
    present: Tensor


class Trainee(nn.Module):
    """The network with what only training needs: a foreground classifier on search tokens."""

    def __init__(self, spec: ModelSpec, drop_path: float) -> None:
        super().__init__()
        self.network = MixFormerV2(spec, drop_path)
        self.foreground = nn.Linear(spec.width, 1)

    def forward(self, batch: Batch) -> tuple[Output, Tensor]:
        """Return the network's output and foreground logits (B, search tokens)."""
        output = self.network(normalize(batch.templates), normalize(batch.search))
        assert output.search_tokens is not None
        return output, self.foreground(output.search_tokens).squeeze(-1)


def fresh_trainee(config: TrainConfig) -> Trainee:
    """Draw a network from the run's seed."""
    torch.manual_seed(config.seed)
    model = Trainee(PRESETS[config.preset], config.drop_path)
    model.network.backbone.reset_parameters()
    if config.identity_start > 0:
        start_near_identity(model.network, config.identity_start)
    return model


def start_near_identity(network: MixFormerV2, strength: float) -> None:
    """Let attention begin by comparing like with like.

    Queries and keys of a head start from the same random projection, so that a token attends to
    tokens that look like it: what template matching needs (compare mimetic initialisation, Trockman
    and Kolter, 2023).
    """
    width = network.spec.width
    for block in network.backbone.blocks:
        with torch.no_grad():
            weight = block.attn.qkv.weight
            shared = torch.randn(width, width) * strength / math.sqrt(width)
            noise = torch.randn(2, width, width) * 0.3 * strength / math.sqrt(width)
            weight[:width] = shared + noise[0]
            weight[width : 2 * width] = shared + noise[1]


def total_loss(
    answer: tuple[Output, Tensor], batch: Batch, config: TrainConfig
) -> tuple[Tensor, dict[str, float]]:
    """Weighted sum of all terms, and each term for the log. Boxes count where a target is present.

    The score's label is the quality of the box that it vouches for: 0 where the target is absent,
    and for a present one rising from 0 at IoU 0.2 to 1 at IoU 0.7, so that 0.5 falls near IoU 0.45.
    """
    output, foreground = answer
    weights = config.loss
    here = batch.present > 0.5
    predicted = output.boxes[here]
    corners = torch.cat(
        [predicted[:, :2] - predicted[:, 2:] / 2, predicted[:, :2] + predicted[:, 2:] / 2], dim=1
    )
    edges = batch.edges[here]
    complete, iou = losses.ciou(corners, edges)
    quality = torch.zeros_like(batch.present)
    quality[here] = ((iou.detach() - 0.2) / 0.5).clamp(0, 1)
    terms = {
        "l1": (corners - edges).abs().mean(),
        "ciou": (1 - complete).mean(),
        "edge": losses.edge_cross_entropy(output.edge_logits[here], edges).mean(),
        "foreground": losses.foreground_loss(foreground, batch.edges),
        "score": F.binary_cross_entropy_with_logits(output.score_logits, quality),
    }
    loss = sum(getattr(weights, name) * term for name, term in terms.items())
    values = {name: float(term.detach()) for name, term in terms.items()}
    values["iou"] = float(iou.detach().mean())
    assert isinstance(loss, Tensor)
    values["loss"] = float(loss.detach())
    return loss, values


def learning_rate_factor(step: int, config: TrainConfig) -> float:
    """Linear warm-up, constant, linear cool-down to zero."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    tail = config.cooldown * config.steps
    return min(1.0, (config.steps - step) / tail) if tail > 0 else 1.0


def build_optimizers(model: Trainee, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW, and Muon for the blocks' matrices where a rate is given for it."""
    matrices: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if config.matrix_learning_rate > 0 and ".blocks." in name and parameter.ndim == 2:
            matrices.append(parameter)
        elif parameter.ndim >= 2 and "reg" not in name:
            decayed.append(parameter)
        else:
            plain.append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98))
    ]
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices, lr=config.matrix_learning_rate, weight_decay=config.weight_decay
            )
        )
    return optimizers


def load_worlds(config: TrainConfig) -> tuple[World, World]:
    """Read the data and split it: every 20th still is kept for validation."""
    # A loader process forked while OpenCV's thread pool is alive would wait for it for ever.
    cv2.setNumThreads(1)
    data = Path(config.data)
    exclude = read_names(Path(config.exclude)) if config.exclude else []
    stills = read_stills(data / "stills")
    clips = read_clips(data / "sequences", exclude)
    spec = PRESETS[config.preset]
    kept = [still for i, still in enumerate(stills) if i % 20]
    held = [still for i, still in enumerate(stills) if i % 20 == 0]
    return World(kept, clips, spec, config.world), World(held, [], spec, config.world)


def batches(world: World, seed: int, start: int, config: TrainConfig) -> Iterator[Batch]:
    """Endless batches of the stream `seed`, from step `start` on."""
    end = config.steps * config.batch
    loader = DataLoader(
        SampleStream(world, seed),
        batch_size=config.batch,
        sampler=range(start * config.batch, end),
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=_single_thread,
        # Its own, unused: a loader else draws from the generator that stochastic depth uses, and a
        # resumed run would differ from an unbroken one.
        generator=torch.Generator(),
    )
    for templates, search, edges, present in loader:
        yield Batch(templates, search, edges, present)


def _single_thread(_: int) -> None:
    torch.set_num_threads(1)


@torch.no_grad()
def validate(model: Trainee, world: World, config: TrainConfig) -> dict[str, float]:
    """Mean loss terms, IoU, and score separation over a fixed stream."""
    model.eval()
    stream = SampleStream(world, _VALIDATION_SEED)
    sums: dict[str, float] = {}
    scores: list[tuple[float, bool]] = []
    count = 0
    for start in range(0, config.validation_samples, 64):
        arrays = [stream[i] for i in range(start, min(start + 64, config.validation_samples))]
        batch = Batch(*(torch.from_numpy(np.stack(part)) for part in zip(*arrays, strict=True)))
        answer = model(batch)
        _, values = total_loss(answer, batch, config)
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value * len(arrays)
        count += len(arrays)
        scores += zip(
            answer[0].score_logits.sigmoid().tolist(), (batch.present > 0.5).tolist(), strict=True
        )
    model.train()
    report = {name: value / count for name, value in sums.items()}
    report["score_present"] = float(np.median([s for s, p in scores if p]))
    report["score_absent"] = float(np.median([s for s, p in scores if not p] or [math.nan]))
    return report


class Run:
    """The state of one run: everything that a checkpoint holds."""

    def __init__(self, config: TrainConfig) -> None:
        if config.preset not in PRESETS:
            known = ", ".join(PRESETS)
            raise ParameterError(f"preset must be one of {known}, got {config.preset!r}")
        self.config = config
        self.step = 0
        self.model = fresh_trainee(config)
        if config.start:
            self.model.load_state_dict(self._read(Path(config.start))["averaged"])
        for name, parameter in self.model.named_parameters():
            if config.only not in name:
                parameter.requires_grad_(False)
        self.averaged = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizers = build_optimizers(self.model, config)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise ParameterError(f"only must be part of a parameter's name, got {config.only!r}")

    def advance(self, batch: Batch) -> dict[str, float]:
        """Take one optimisation step."""
        factor = learning_rate_factor(self.step, self.config)
        rates = (self.config.learning_rate, self.config.matrix_learning_rate)
        for optimizer, rate in zip(self.optimizers, rates, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
        loss, values = total_loss(self.model(batch), batch, self.config)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        decay = min(self.config.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(now, 1 - decay)
        values["norm"] = float(norm)
        return values

    def save(self, path: Path) -> None:
        """Write a checkpoint: whole or not at all. `net` holds the averaged network's weights."""
        state = {
            "net": self.averaged.network.state_dict(),
            "net_type": "MixFormer",
            "spec": dataclasses.asdict(self.averaged.network.spec),
            "config": dataclasses.asdict(self.config),
            "step": self.step,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": torch.get_rng_state(),
        }
        partial = path.with_suffix(".partial")
        with partial.open("wb") as stream:
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of the same architecture, bit for bit.

        Raises:
            CheckpointError: the file is damaged or of another architecture.
        """
        state = self._read(path)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]
        torch.set_rng_state(state["rng"])

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: expected a training checkpoint: {reason}") from None
        spec = dataclasses.asdict(self.model.network.spec)
        if state.get("spec") != spec:
            raise CheckpointError(f"{path}: expected architecture {spec}, got {state.get('spec')}")
        return state


def train(config: TrainConfig, seconds: float = math.inf) -> Path:
    """Run or resume a training; return the path of the last checkpoint.

    Args:
        config: Settings; `output` may hold an earlier, unfinished run, which is continued.
        seconds: Stop with a checkpoint after this much time.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    path = output / CHECKPOINT
    run = Run(config)
    if path.exists():
        run.restore(path)
        log.info("resumed %s at step %d", path, run.step)
    world, held = load_worlds(config)
    log.info("%d stills, %d clips", len(world.stills), len(world.clips))
    begin = time.monotonic()
    first = run.step
    recent: list[dict[str, float]] = []
    for batch in batches(world, config.seed, run.step, config):
        values = run.advance(batch)
        if not math.isfinite(values["loss"]):
            raise ParameterError(
                f"training diverged at step {run.step}: loss is {values['loss']}; "
                f"the last good checkpoint is {path}"
            )
        recent.append(values)
        late = time.monotonic() - begin > seconds
        if run.step % config.validate_every == 0 or run.step == config.steps or late:
            mean = {name: float(np.mean([r[name] for r in recent])) for name in recent[0]}
            recent.clear()
            report = validate(run.averaged, held, config)
            run.save(path)
            speed = (run.step - first) * config.batch / (time.monotonic() - begin)
            _append(output / "log.csv", run.step, speed, mean, report)
            log.info(
                "step %d  %.0f samples/s  loss %.3f  iou %.3f | validation iou %.3f "
                "foreground %.3f score %.2f/%.2f",
                run.step, speed, mean["loss"], mean["iou"], report["iou"],
                report["foreground"], report["score_present"], report["score_absent"],
            )  # fmt: skip
        if late:
            break
    return path


def _append(
    path: Path, step: int, speed: float, mean: dict[str, float], report: dict[str, float]
) -> None:
    row = {"step": step, "samples_per_second": round(speed, 1)}
    row |= {f"train_{name}": round(value, 5) for name, value in mean.items()}
    row |= {f"validation_{name}": round(value, 5) for name, value in report.items()}
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, row)
        if fresh:
            writer.writeheader()
        writer.writerow(row)
