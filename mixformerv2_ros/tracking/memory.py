"""The template memory: what the target looked like at first, and what it looks like now."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Crop = npt.NDArray[np.uint8]

NO_SCORE = -1.0


class TemplateMemory:
    """The initial template, the online templates, and the candidate for the next change.

    All crops are (T, T, 3) uint8 RGB. Between two changes the best-scoring frame is kept as the
    candidate; a change (`commit`) stores it and starts a new search. If no frame was good enough,
    the initial template is stored instead.
    """

    def __init__(self, initial: Crop) -> None:
        self.initial = initial
        self.online: list[Crop] = [initial]
        self.candidate = initial
        self.best_score = NO_SCORE
        self._oldest = 0

    def decay(self, factor: float) -> None:
        """Let an old candidate's score fade."""
        self.best_score *= factor

    def accepts(self, score: float, threshold: float) -> bool:
        """Whether a frame with this score would become the candidate."""
        return score > threshold and score > self.best_score

    def offer(self, crop: Crop, score: float) -> None:
        """Make a crop the candidate."""
        self.candidate = crop
        self.best_score = score

    def commit(self, online_size: int) -> None:
        """Store the candidate: in a free place, else over the oldest online template in turn."""
        del self.online[online_size:]
        if len(self.online) < online_size:
            self.online.append(self.candidate)
        else:
            self._oldest %= online_size
            self.online[self._oldest] = self.candidate
            self._oldest = (self._oldest + 1) % online_size
        self.candidate = self.initial
        self.best_score = NO_SCORE

    def templates(self) -> npt.NDArray[np.uint8]:
        """All templates for the engine: (1 + n, T, T, 3) uint8, the initial one first."""
        return np.stack([self.initial, *self.online])
