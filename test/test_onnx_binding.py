"""ONNX Runtime with bound inputs and outputs: the answers of an ordinary run, templates kept."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from mixformerv2_ros.engines.loader import load_engine
from mixformerv2_ros.engines.onnx_binding import HELD_BATCHES, BoundSearch
from mixformerv2_ros.engines.onnx_engine import check_graphs, join_memories
from mixformerv2_ros.model.bundle import open_bundle

needs_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="needs ONNX Runtime's CUDA provider",
)


@pytest.fixture(scope="module")
def engine():
    return load_engine(open_bundle("tiny"), "onnxruntime", num_threads=1)


@pytest.fixture(scope="module")
def scene(engine):
    rng = np.random.default_rng(0)
    t, s = engine.spec.template_size, engine.spec.search_size
    templates = rng.integers(0, 256, (HELD_BATCHES + 2, 2, t, t, 3), np.uint8)
    return [engine.encode_templates(one) for one in templates], rng.integers(
        0, 256, (len(templates), s, s, 3), np.uint8
    )


@pytest.fixture
def search():
    _, session = check_graphs(open_bundle("tiny"))
    return BoundSearch(session, "cpu", join_memories)


def assert_equal(outputs, prediction):
    for found, name in zip(outputs, ("boxes", "scores", "edges"), strict=True):
        np.testing.assert_allclose(found, getattr(prediction, name), atol=1e-5)


def test_answers_are_those_of_an_ordinary_run(engine, scene, search):
    memories, crops = scene
    for places in ([0], [1], [0, 1, 2], [2, 0]):
        chosen = [memories[place] for place in places]
        assert_equal(search(crops[places], chosen), engine.search(crops[places], chosen))


def test_templates_go_to_the_device_only_when_they_change(engine, scene, search):
    memories, crops = scene
    for _ in range(3):
        search(crops[:2], memories[:2])
        search(crops[:1], memories[:1])
    assert search.uploads == 2
    # A template update makes a new memory.
    changed = tuple(part.copy() for part in memories[0])
    assert_equal(search(crops[:1], [changed]), engine.search(crops[:1], [changed]))
    assert search.uploads == 3


def test_what_was_not_searched_for_lately_is_dropped(engine, scene, search):
    memories, crops = scene
    count = HELD_BATCHES + 1
    for _ in range(2):
        for place in range(count):
            found = search(crops[place : place + 1], memories[place : place + 1])
            assert_equal(
                found, engine.search(crops[place : place + 1], memories[place : place + 1])
            )
    assert search.uploads == 2 * count


@needs_cuda
def test_cuda_gives_what_the_cpu_gives(engine, scene):
    memories, crops = scene
    other = load_engine(open_bundle("tiny"), "onnxruntime", "cuda")
    for places in ([0], [0, 1, 2]):
        chosen = [memories[place] for place in places]
        found, expected = (one.search(crops[places], chosen) for one in (other, engine))
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=2e-3)
