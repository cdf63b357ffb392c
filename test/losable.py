"""An engine whose device can be lost."""

from __future__ import annotations

from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.errors import EngineError
from mixformerv2_ros.model.bundle import open_bundle


class Losable:
    """A real engine on a device that can be lost."""

    def __init__(self, name):
        self.engine, self.name, self.lost = load_engine(open_bundle(), "onnxruntime"), name, False
        self.spec = self.engine.spec

    def encode_templates(self, templates):
        self._check()
        return self.name, self.engine.encode_templates(templates)

    def search(self, crops, memories, stop=None):
        self._check()
        assert {owner for owner, _ in memories} <= {self.name}
        return self.engine.search(crops, [memory for _, memory in memories])

    def _check(self):
        if self.lost:
            raise EngineError(f"{self.name} failed: device lost")
