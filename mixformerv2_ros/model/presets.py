"""The presets: released S and B, and the small XS and T that this project trains.

S and B are the published configurations `224_depth4_mlp1_score` and `288_depth8_score`. Both have
the width of ViT-Base; S is shallow, not narrow.

T is made for weights that can be trained from scratch on little data and run on weak boards: 192
channels and an MLP ratio of 2 keep the number of weights near 1.5 million (a few thousand pictures
cannot fill more, and attention, not the MLP, does the matching), six heads of 32 channels give the
matching between template and search more independent views than three of 64 would, and crops of 64
and 128 pixels keep the published ratio of two between search and template at 100 tokens a frame
instead of 298.

XS lies between T and S: as much as fits into the time that NanoTrack v2 takes on one core, with
crops of 80 and 160 pixels and 256 channels in five blocks. In the bundle of the package it has two
exits; exits are no part of a preset.
"""

from __future__ import annotations

from mixformerv2_ros.model.spec import ModelSpec

S = ModelSpec(
    preset="S", width=768, depth=4, heads=12, mlp_ratio=1.0, bins=96,
    template_size=112, search_size=224,
)  # fmt: skip
B = ModelSpec(
    preset="B", width=768, depth=8, heads=12, mlp_ratio=4.0, bins=96,
    template_size=128, search_size=288,
)  # fmt: skip
XS = ModelSpec(
    preset="XS", width=256, depth=5, heads=8, mlp_ratio=2.0, bins=80,
    template_size=80, search_size=160,
)  # fmt: skip
T = ModelSpec(
    preset="T", width=192, depth=4, heads=6, mlp_ratio=2.0, bins=64,
    template_size=64, search_size=128,
)  # fmt: skip

PRESETS = {"S": S, "B": B, "XS": XS, "T": T}
