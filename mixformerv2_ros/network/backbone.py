"""The transformer backbone with asymmetric mixed attention, for the tracker and its teacher.

Sequence of tokens: `[templates | search | left, right, top, bottom]`; the teacher MixViT has no
prediction tokens, its sequence ends with the search region. Templates attend to templates only;
search and prediction tokens attend to everything (paper, section 3.2). Keys and values of the
templates are therefore a function of the templates alone, and can be computed once per template
change (`encode_templates`) and reused for every frame (`search`). `forward` is the joint pass over
all tokens; both give the same result.

Both append the attention of the prediction tokens to a list, one tensor per block, when given one:
(B, heads, 4, keys), rows in the order of the tokens, keys in the order of the sequence, each row a
probability distribution. Without a list nothing of it is computed.

Module and parameter names are those of the released checkpoints, so that `load_state_dict` is
strict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6
PREDICTION_TOKENS = 4


class BackboneSpec(Protocol):
    """What the backbone asks of an architecture: `ModelSpec` and `TeacherSpec` have it."""

    @property
    def width(self) -> int:
        """Channels per token."""

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""

    @property
    def heads(self) -> int:
        """Attention heads per block."""

    @property
    def mlp_ratio(self) -> float:
        """Hidden width of a block's MLP over `width`."""

    @property
    def template_size(self) -> int:
        """Side of a template crop in pixels."""

    @property
    def search_size(self) -> int:
        """Side of a search crop in pixels."""

    @property
    def PATCH(self) -> int:
        """Side of a patch in pixels."""


def sincos_position_table(width: int, side: int) -> npt.NDArray[np.float32]:
    """Return the fixed position table (1, side * side, width) of a square patch grid.

    Token `y * side + x` holds the sines and cosines of x in its first half and those of y in its
    second half; frequencies are 10000^(-k / (width / 4)). Arithmetic in float32, like the released
    tables.
    """
    quarter = width // 4
    frequencies = np.float32(1.0) / np.power(
        np.float32(10000.0), np.arange(quarter, dtype=np.float32) / np.float32(quarter)
    )
    angles = np.arange(side, dtype=np.float32)[:, None] * frequencies[None, :]
    waves = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    columns = np.tile(waves, (side, 1))
    rows = np.repeat(waves, side, axis=0)
    return np.concatenate([columns, rows], axis=1).astype(np.float32)[None]


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=patch, stride=patch)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, H/16 * W/16, width), row by row."""
        if image.is_cuda:
            return self.product(image)
        return self.proj(image).flatten(2).transpose(1, 2)

    def product(self, image: Tensor) -> Tensor:
        """The same as one product of matrices.

        By torch's defaults, CUDA runs convolutions of fp32 in TF32, with 10 bits of mantissa, but
        not products of matrices.
        """
        patch = self.proj.kernel_size[0]
        parts = image.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
        patches = parts.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Multi-head attention whose keys and values may come from elsewhere."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def split_heads(self, tokens: Tensor) -> Tensor:
        """(B, N, parts * width) -> (parts, B, heads, N, channels of a head)."""
        batch, count, _ = tokens.shape
        width = self.proj.in_features
        shape = (batch, count, -1, self.heads, width // self.heads)
        return tokens.reshape(shape).permute(2, 0, 3, 1, 4)

    def queries_keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q, k and v, each (B, heads, N, channels of a head)."""
        q, k, v = self.split_heads(self.qkv(tokens)).unbind(0)
        return q, k, v

    def queries(self, tokens: Tensor) -> Tensor:
        """Return q only, for tokens whose keys are wanted elsewhere or not at all."""
        width = self.proj.in_features
        weight, bias = self.qkv.weight[:width], self.qkv.bias[:width]
        return self.split_heads(F.linear(tokens, weight, bias))[0]

    def keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return k and v only, for tokens that nobody will ask as queries."""
        width = self.proj.in_features
        weight, bias = self.qkv.weight[width:], self.qkv.bias[width:]
        k, v = self.split_heads(F.linear(tokens, weight, bias)).unbind(0)
        return k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Softmax attention before the output projection: (B, N, width)."""
        if torch.compiler.is_exporting():
            # What the exporter makes of torch's own operator has a dozen nodes about sizes.
            mixed = (q * q.shape[3] ** -0.5 @ k.transpose(2, 3)).softmax(dim=3) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).flatten(2)

    @staticmethod
    def weights(q: Tensor, k: Tensor) -> Tensor:
        """The distributions over keys that `attend` mixes values by: (B, heads, queries, keys)."""
        return (q @ k.transpose(2, 3) / math.sqrt(q.shape[3])).softmax(dim=3)


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> (B, N, width)."""
        hidden = self.fc1(tokens)
        if torch.compiler.is_exporting():
            # In this order of factors, ONNX Runtime knows it for a GELU and makes one node of it.
            hidden = 0.5 * (hidden * (1 + torch.erf(hidden / math.sqrt(2))))
        else:
            hidden = self.act(hidden)
        return self.fc2(hidden)


class Block(nn.Module):
    """One pre-norm transformer block over template tokens, search tokens, or both.

    Attributes:
        drop_path: Probability that stochastic depth skips a branch in training.
        gamma: Factor of both residual branches; 1 except in blocks that are being pruned
            (`lab.training.pruning`). At 0 the block passes its tokens on unchanged.
    """

    def __init__(self, spec: BackboneSpec, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(spec.width, eps=NORM_EPS)
        self.attn = Attention(spec.width, spec.heads)
        self.norm2 = nn.LayerNorm(spec.width, eps=NORM_EPS)
        self.mlp = Mlp(spec.width, round(spec.width * spec.mlp_ratio))
        self.drop_path = drop_path
        self.gamma = 1.0

    def _residual(self, tokens: Tensor, branch: Tensor) -> Tensor:
        # Stochastic depth: a sample skips this branch, the others are scaled up to keep the mean.
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            mask = torch.rand(tokens.shape[0], 1, 1, device=tokens.device) < keep
            branch = branch * (mask / keep)
        if self.gamma != 1.0:
            branch = branch * self.gamma
        return tokens + branch

    def _finish(self, tokens: Tensor, mixed: Tensor) -> Tensor:
        tokens = self._residual(tokens, self.attn.proj(mixed))
        return self._residual(tokens, self.mlp(self.norm2(tokens)))

    def templates(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run template tokens (B, M, width); return them with their keys and values."""
        q, k, v = self.attn.queries_keys_values(self.norm1(tokens))
        return self._finish(tokens, self.attn.attend(q, k, v)), k, v

    def template_keys_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of template tokens only: all that the last block needs of them."""
        return self.attn.keys_values(self.norm1(tokens))

    def search(
        self,
        tokens: Tensor,
        template_keys: Tensor,
        template_values: Tensor,
        attention: list[Tensor] | None = None,
    ) -> Tensor:
        """Run search and prediction tokens (B, N, width) with cached template keys and values."""
        q, k, v = self.attn.queries_keys_values(self.norm1(tokens))
        k = torch.cat([template_keys, k], dim=2)
        v = torch.cat([template_values, v], dim=2)
        if attention is not None:
            attention.append(self.attn.weights(q[:, :, -PREDICTION_TOKENS:], k))
        return self._finish(tokens, self.attn.attend(q, k, v))

    def predict(
        self,
        tokens: Tensor,
        template_keys: Tensor,
        template_values: Tensor,
        attention: list[Tensor] | None = None,
    ) -> Tensor:
        """Like `search`, but return the prediction tokens only: (B, 4, width).

        In the last block nobody reads what the search tokens become, only their keys and values.
        """
        normed = self.norm1(tokens)
        q = self.attn.queries(normed[:, -PREDICTION_TOKENS:])
        k, v = self.attn.keys_values(normed)
        k = torch.cat([template_keys, k], dim=2)
        v = torch.cat([template_values, v], dim=2)
        if attention is not None:
            attention.append(self.attn.weights(q, k))
        return self._finish(tokens[:, -PREDICTION_TOKENS:], self.attn.attend(q, k, v))

    def predict_first(
        self, tokens: Tensor, template_keys: Tensor, template_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Like `predict`; also return queries, keys and values for `search_after_prediction`.

        One product makes all queries: a second one over the same weights, which are read from
        memory for it, would cost whoever goes on more than it spares who stops here.
        """
        q, k, v = self.attn.queries_keys_values(self.norm1(tokens))
        k = torch.cat([template_keys, k], dim=2)
        v = torch.cat([template_values, v], dim=2)
        mixed = self.attn.attend(q[:, :, -PREDICTION_TOKENS:], k, v)
        return self._finish(tokens[:, -PREDICTION_TOKENS:], mixed), q, k, v

    def search_after_prediction(
        self, tokens: Tensor, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """What `search` makes of tokens, given them and what `predict_first` made of them.

        The prediction tokens are computed again: to take four of a hundred out and put them back
        would cost more.
        """
        return self._finish(tokens, self.attn.attend(queries, keys, values))

    def joint(
        self, tokens: Tensor, template_count: int, attention: list[Tensor] | None = None
    ) -> Tensor:
        """Run all tokens (B, M + N, width) at once; the first `template_count` are templates."""
        q, k, v = self.attn.queries_keys_values(self.norm1(tokens))
        m = template_count
        templates = self.attn.attend(q[:, :, :m], k[:, :, :m], v[:, :, :m])
        others = self.attn.attend(q[:, :, m:], k, v)
        if attention is not None:
            attention.append(self.attn.weights(q[:, :, -PREDICTION_TOKENS:], k))
        return self._finish(tokens, torch.cat([templates, others], dim=1))


class Backbone(nn.Module):
    """Patch embedding, position tables, prediction tokens and the blocks. No final norm.

    Args:
        spec: The architecture.
        drop_path: Stochastic depth of the last block; grows linearly from zero in the first.
        predicts: Whether there are prediction tokens; without them (MixViT) only `forward` is of
            use, and it returns search tokens alone.
    """

    def __init__(self, spec: BackboneSpec, drop_path: float = 0.0, predicts: bool = True) -> None:
        super().__init__()
        self.predicts = predicts
        self.patch_embed = PatchEmbed(spec.width, spec.PATCH)
        for name, size in (("t", spec.template_size), ("s", spec.search_size)):
            table = sincos_position_table(spec.width, size // spec.PATCH)
            parameter = nn.Parameter(torch.from_numpy(table), requires_grad=False)
            self.register_parameter(f"pos_embed_{name}", parameter)
        if predicts:
            self.reg_tokens = nn.Parameter(torch.zeros(1, PREDICTION_TOKENS, spec.width))
            self.pos_embed_reg = nn.Parameter(torch.zeros(1, PREDICTION_TOKENS, spec.width))
        rates = torch.linspace(0, drop_path, spec.depth, device="cpu").tolist()
        # A ModuleList; declared by what is in it, which torch's types cannot say.
        self.blocks: Sequence[Block] = nn.ModuleList(  # type: ignore[assignment]
            Block(spec, rate) for rate in rates
        )

    def embed_templates(self, templates: Tensor) -> Tensor:
        """(B, K, 3, T, T) -> (B, K * template tokens, width), position table added to each."""
        batch, count = templates.shape[:2]
        tokens = self.patch_embed(templates.flatten(0, 1)) + self.pos_embed_t
        return tokens.reshape(batch, count * tokens.shape[1], tokens.shape[2])

    def embed_search(self, search: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, search tokens + 4, width); without the 4 if there are none."""
        tokens = self.patch_embed(search) + self.pos_embed_s
        if not self.predicts:
            return tokens
        prediction = self.prediction_tokens().expand(tokens.shape[0], -1, -1)
        return torch.cat([tokens, prediction], dim=1)

    def prediction_tokens(self) -> Tensor:
        """The prediction tokens as they enter the first block, (1, 4, width)."""
        return self.reg_tokens + self.pos_embed_reg

    def encode_templates(self, templates: Tensor) -> tuple[Tensor, Tensor]:
        """Encode templates (B, K, 3, T, T) once per template change.

        Returns:
            Keys and values of all blocks, each (depth, B, heads, K * template tokens, channels).
        """
        tokens = self.embed_templates(templates)
        return self.encode_blocks(tokens, 0, len(self.blocks))[1:]

    def encode_blocks(self, tokens: Tensor, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """Encode template tokens in the blocks from `first` up to, but without, `last`.

        Args:
            tokens: (B, K * template tokens, width): for `first` 0 those of `embed_templates`, else
                those that the call for the blocks before `first` returned.
            first: The first of the blocks, counted from 0.
            last: The block after the last.

        Returns:
            Tokens as they enter the last of the blocks, (B, K * template tokens, width); keys and
            values of these blocks, each (blocks, B, heads, K * template tokens, channels).
        """
        if first:
            tokens, _, _ = self.blocks[first - 1].templates(tokens)
        keys, values = [], []
        for block in self.blocks[first : last - 1]:
            tokens, k, v = block.templates(tokens)
            keys.append(k)
            values.append(v)
        k, v = self.blocks[last - 1].template_keys_values(tokens)
        return tokens, torch.stack([*keys, k]), torch.stack([*values, v])

    def search(
        self,
        search: Tensor,
        keys: Tensor,
        values: Tensor,
        attention: list[Tensor] | None = None,
    ) -> Tensor:
        """Run one frame (B, 3, S, S) against encoded templates.

        Returns:
            Final prediction tokens, (B, 4, width).
        """
        tokens = self.embed_search(search)
        for block, k, v in zip(self.blocks[:-1], keys, values, strict=False):
            tokens = block.search(tokens, k, v, attention)
        return self.blocks[-1].predict(tokens, keys[-1], values[-1], attention)

    def forward(
        self,
        templates: Tensor,
        search: Tensor,
        attention: list[Tensor] | None = None,
        features: list[Tensor] | None = None,
    ) -> Tensor:
        """Joint pass over templates (B, K, 3, T, T) and search (B, 3, S, S).

        Without `features`, the last block spends nothing on template queries, which nobody reads.

        Args:
            templates: Normalised template crops.
            search: Normalised search crops.
            attention: Filled as described in the module.
            features: Given a list, what every block returns is appended to it: all tokens,
                (B, K * template tokens + search tokens + 4, width) per block.

        Returns:
            Final search and prediction tokens, (B, search tokens + 4, width).
        """
        template_tokens = self.embed_templates(templates)
        count = template_tokens.shape[1]
        tokens = torch.cat([template_tokens, self.embed_search(search)], dim=1)
        if features is not None:
            for block in self.blocks:
                tokens = block.joint(tokens, count, attention)
                features.append(tokens)
            return tokens[:, count:]
        for block in self.blocks[:-1]:
            tokens = block.joint(tokens, count, attention)
        last = self.blocks[-1]
        keys, values = last.template_keys_values(tokens[:, :count])
        return last.search(tokens[:, count:], keys, values, attention)

    def reset_parameters(self) -> None:
        """Draw fresh weights the way ViTs usually start: truncated normal 0.02, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        fan_in = math.prod(self.patch_embed.proj.weight.shape[1:])
        nn.init.trunc_normal_(self.patch_embed.proj.weight, std=fan_in**-0.5)
        assert self.patch_embed.proj.bias is not None
        nn.init.zeros_(self.patch_embed.proj.bias)
        if self.predicts:
            nn.init.trunc_normal_(self.reg_tokens, std=0.02)
            nn.init.zeros_(self.pos_embed_reg)
