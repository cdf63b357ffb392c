"""Training settings as frozen dataclasses, nested by topic; `config_files` reads them from YAML."""

from __future__ import annotations

from dataclasses import dataclass, field

from mixformerv2_ros.lab.datasets.training_sets import SetConfig
from mixformerv2_ros.lab.training.sampling import SamplingConfig
from mixformerv2_ros.lab.training.synthetic import SyntheticConfig


@dataclass(frozen=True)
class ModelConfig:
    """Architecture, as differences from the preset; 0 keeps the preset's value.

    Attributes:
        width, depth, heads, mlp_ratio, bins, template_size, search_size: As in `ModelSpec`.
        head: Corner head of the network that stage `teacher` trains, `corner` or `corner_up`; its
            number of bins follows from the head (one or four per patch and side).
        head_channels: Output channels of that head's first convolution.
        drop_path: Stochastic depth rate of the last block; increases linearly from 0.
        mimetic_init: Strength of the mimetic initialisation of attention; 0 turns it off.
        exits: Numbers of blocks after which the network has an exit (`network.exits`).
    """

    width: int = 0
    depth: int = 0
    heads: int = 0
    mlp_ratio: float = 0.0
    bins: int = 0
    template_size: int = 0
    search_size: int = 0
    head: str = "corner_up"
    head_channels: int = 384
    drop_path: float = 0.0
    mimetic_init: float = 0.0
    exits: tuple[int, ...] = ()


@dataclass(frozen=True)
class DataConfig:
    """Training and validation data: either `folder`, for the synthetic dataset, or `sets`.

    Attributes:
        folder: Folder with `stills/` and `sequences/`, or `generated` for generated images.
        exclude: File with names of sequences in `folder` that must not be trained on;
            `package:NAME` is one of the package.
        synthetic: Sampling of the synthetic dataset, which `folder` feeds.
        sets: Published data sets to train on.
        validation_sets: Data sets to validate on; required with `sets`.
        sampling: Sampling of `sets` and `validation_sets`.
        batch_size: Samples per step and process.
        max_unreadable: Fraction of images that may be missing or damaged; they are left out and
            counted. With 0, the first one ends the training.
    """

    folder: str = ""
    exclude: str = ""
    synthetic: SyntheticConfig = field(default_factory=SyntheticConfig)
    sets: tuple[SetConfig, ...] = ()
    validation_sets: tuple[SetConfig, ...] = ()
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    batch_size: int = 64
    max_unreadable: float = 0.0


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser.

    Attributes:
        param_groups: `shape`: AdamW with weight decay on matrices only, and Muon for the blocks'
            matrices. `name`: AdamW as published, with one learning rate for parameters that have
            "backbone" in their name and one for the others, and weight decay on all of them.
        learning_rate: Learning rate of AdamW (with `name`: outside the backbone).
        backbone_learning_rate: Learning rate of the backbone with `name`.
        matrix_learning_rate: Learning rate of Muon with `shape`; 0 uses AdamW for all parameters.
        weight_decay: Decoupled weight decay.
        clip_norm: Maximum norm of the gradient.
        ema_decay: Decay of the exponential moving average of the weights, which is validated and
            exported; 0 uses the weights themselves.
        trainable: Train only parameters with this in their name, such as `score_head`; empty
            trains all.
    """

    param_groups: str = "shape"
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 0.0
    matrix_learning_rate: float = 0.0
    weight_decay: float = 0.02
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    trainable: str = ""


@dataclass(frozen=True)
class ScheduleConfig:
    """Length of the run and learning-rate schedule.

    Attributes:
        steps: Optimisation steps of the run.
        epochs: Length in epochs instead; 0 uses `steps`.
        epoch_samples: Samples per epoch, over all processes.
        warmup: Steps of linear warm-up.
        cooldown: Fraction of the steps, at the end, of linear decay to zero.
        drop_epoch: Epochs after which the learning rate is divided by ten; 0 never.
    """

    steps: int = 5000
    epochs: int = 0
    epoch_samples: int = 60_000
    warmup: int = 200
    cooldown: float = 0.3
    drop_epoch: int = 0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms; a term with weight 0 is logged but not optimised.

    Attributes:
        l1: Mean absolute error of the four edges, in crop sides (paper: 5).
        ciou: 1 - complete IoU (paper: 2).
        edge: Cross entropy of the edge distributions against the true edges (paper: none).
        foreground: Foreground classifier on the final search tokens (training only; paper: none).
        score: Binary cross entropy of the score (paper: 1, alone, in the score stage).
        kl: KL divergence of the edge distributions from the teacher's (paper: 5), or from those
            that a tracker's head gives.
        features: Mean squared error between outputs of paired blocks (paper: 0.2, in the second
            stage).
        feature_map: Mean squared error between search tokens, through a linear layer, and a
            tracker's feature map, both normalised (paper: none).
        exits: All terms of the exits: each exit's box, edge and score terms, weighted as above, its
            `exit_kl` and its `decision`, averaged over the exits (ours).
        exit_kl: KL divergence of an exit's edge distributions from those at full depth.
        exit_features: Mean squared difference between the search tokens at an exit and at full
            depth, weighted towards the target; needs a backbone that is trained.
        decision: Mean squared error of an exit's estimate of the IoU of its own box.
        score_label: Target of the score: `presence` of the object (paper), or `quality` of the
            predicted box, a ramp over its IoU.
    """

    l1: float = 5.0
    ciou: float = 2.0
    edge: float = 0.5
    foreground: float = 2.0
    score: float = 0.5
    kl: float = 0.0
    features: float = 0.0
    feature_map: float = 0.0
    exits: float = 0.0
    exit_kl: float = 1.0
    exit_features: float = 0.0
    decision: float = 1.0
    score_label: str = "quality"


@dataclass(frozen=True)
class TrackerTeacherConfig:
    """A small convolutional tracker that teaches, such as NanoTrack v2.

    Attributes:
        backbone: ONNX file of its backbone, such as `nanotrack_backbone_sim.onnx`, whose feature
            map search tokens must give (`loss.feature_map`); empty trains without a tracker.
        head: ONNX file of its head, such as `nanotrack_head_sim.onnx`, whose dense maps become edge
            distributions (`loss.kl`); empty teaches features only.
        block: Block after which the tokens are compared, from 0; the later half of a network needs
            its tokens for its own ends.
    """

    backbone: str = ""
    head: str = ""
    block: int = 1


@dataclass(frozen=True)
class DistillationConfig:
    """Knowledge distillation.

    Attributes:
        teacher: Checkpoint of the teacher; empty trains without one.
        feature_pairs: Pairs (student block, teacher block) whose outputs the feature loss compares;
            empty takes four of each at equal distances.
        tracker: Convolutional tracker that teaches, beside or instead of `teacher`.
    """

    teacher: str = ""
    feature_pairs: tuple[tuple[int, ...], ...] = ()
    tracker: TrackerTeacherConfig = field(default_factory=TrackerTeacherConfig)


@dataclass(frozen=True)
class PruningConfig:
    """Progressive depth pruning (paper, section 3.3).

    Attributes:
        layers: Layers that stage `pruning` decays to the identity, from 0.
        epochs: Epochs over which their gamma decays from 1 to 0; at most one more than the stage
            has.
        keep_layers: Layers of `init_from` that become this network's, in order; empty takes all.
    """

    layers: tuple[int, ...] = ()
    epochs: int = 40
    keep_layers: tuple[int, ...] = ()


@dataclass(frozen=True)
class ClipsConfig:
    """Held-out sequences that validation tracks.

    Attributes:
        root: Folder of the data set; empty tracks none.
        dataset: Its kind, as in `mixformerv2 evaluate --dataset`.
        names: File with the names of the sequences to use; empty uses all.
        frames: Use only this many frames of each; 0 uses all.
    """

    root: str = ""
    dataset: str = "folder"
    names: str = ""
    frames: int = 0


@dataclass(frozen=True)
class ValidationConfig:
    """Validation.

    Attributes:
        every: Steps between validations, each followed by a checkpoint.
        every_epochs: The same in epochs; 0 uses `every`.
        samples: Number of validation samples.
        clips: Sequences to track.
    """

    every: int = 250
    every_epochs: int = 0
    samples: int = 512
    clips: ClipsConfig = field(default_factory=ClipsConfig)


@dataclass(frozen=True)
class RuntimeConfig:
    """Hardware.

    Attributes:
        device: `auto` (a GPU if there is one), `cpu`, `cuda` or `cuda:N`.
        precision: `fp32`, or `bf16` or `fp16` with automatic mixed precision.
        workers: Data loader workers per process; the samples do not depend on it.
        threads: CPU threads of torch; 0 leaves torch's default.
    """

    device: str = "auto"
    precision: str = "fp32"
    workers: int = 1
    threads: int = 0


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run, which is one stage of a recipe.

    Attributes:
        preset: Architecture, a name in `model.presets.PRESETS`.
        output: Folder of checkpoints and logs.
        stage: Kind of training, a name in `stages.STAGES`.
        seed: Random seed of weights and samples.
        init_from: Checkpoint or bundle with the initial weights; empty initialises at random. The
            crops of a bundle must be those of the settings. `package:models/default` is the bundle
            of the package.
        init_stage: Stage that must have written `init_from`, or `mae` for the weights of a masked
            autoencoder; empty accepts any stage.
    """

    preset: str
    output: str
    stage: str = "plain"
    seed: int = 0
    init_from: str = ""
    init_stage: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distillation: DistillationConfig = field(default_factory=DistillationConfig)
    pruning: PruningConfig = field(default_factory=PruningConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
