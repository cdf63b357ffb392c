# make demo   a virtual environment with the run-time pieces, then the main job on a real video
# make test   a virtual environment with everything, then lint, types and the whole test suite
# make help   the other targets

PYTHON ?= python3
RUN := .venv-run
DEV := .venv-dev
LOWEST := .venv-lowest
PIP_OPTIONS := --quiet --disable-pip-version-check
METADATA := setup.py pyproject.toml package.xml constraints-dev.txt constraints-lowest.txt Makefile

# Clip and box of the demo; empty: a pedestrian in Debian's vtest.avi.
VIDEO ?=
BOX ?=

.DELETE_ON_ERROR:
.PHONY: demo test test-ros test-lowest lint types unit screen soak faults fuzz evaluate benchmark train distill-demo clean help

help:
	@sed -n 's/^# make/make/p' Makefile
	@echo "make lint | types | unit   one part of make test"
	@echo "make test-ros              the tests that need ROS 2, in a sourced workspace with this package"
	@echo "make test-lowest           the tests of what a robot runs, with the oldest libraries permitted"
	@echo "make soak                  a simulated day (HOURS=24), then the node over DDS (SECONDS=1800): does it grow?"
	@echo "make faults                what becomes of a running node when something goes wrong, as a table"
	@echo "make fuzz                  damaged bytes for every reader: INPUTS=10000 each, or for SECONDS=600 in all"
	@echo "make evaluate              the default weights beside OpenCV's trackers on held-out sequences"
	@echo "make benchmark             milliseconds per frame of every engine"
	@echo "make train                 the first stage of the default weights (hours)"
	@echo "make distill-demo          the paper's training in miniature, with a table (half an hour)"
	@echo "make clean                 remove environments and outputs"

demo: $(RUN)/ready
	$(RUN)/bin/mixformerv2 demo --output demo_out $(if $(VIDEO),--video "$(VIDEO)" --box "$(BOX)")

test: lint types unit

lint: $(DEV)/ready
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/lint-imports

types: $(DEV)/ready
	$(DEV)/bin/mypy

# Tests open pages in a browser and draw boxes in a window. Where these programs are missing and cannot
# be installed, those tests are skipped by name, and the next run tries again.
screen:
	@missing=; for program in chromium Xvfb xdotool; do \
	  command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing chromium xvfb xdotool"; \
	  .ci/apt_install chromium xvfb xdotool && exit 0; \
	fi; \
	echo "missing:$$missing; tests that need them will be skipped" >&2

# Two processes share the whole suite, file by file, so that one computes while the other waits.
# torch's threads must sleep, not spin, while another process of the suite uses the cores.
unit: $(DEV)/ready screen
	OMP_WAIT_POLICY=passive $(DEV)/bin/python -m pytest \
	  $(or $(TESTS),--numprocesses $(or $(WORKERS),2) --dist loadfile)

# In a sourced ROS 2 workspace that holds the package. The plugins would add their own fixtures.
test-ros:
	$(PYTHON) -m pytest -p no:launch_testing -p no:launch_ros test/test_rclpy_*.py test/test_launch.py

# Needs the oldest Python too: newer ones have no wheels of these libraries. Tests of the laboratory are
# left out, because their libraries are not installed.
test-lowest: $(LOWEST)/ready
	$(LOWEST)/bin/python -m pytest \
	  $(or $(TESTS),$(shell grep -L '^from mixformerv2_ros.lab' test/test_*.py))

soak: $(DEV)/ready
	PYTHONPATH=.:test $(DEV)/bin/python test/soak_day.py --hours $(or $(HOURS),24)
	PYTHONPATH=.:test $(DEV)/bin/python test/soak.py --seconds $(or $(SECONDS),1800)

faults: $(DEV)/ready
	PYTHONPATH=.:test $(DEV)/bin/python test/faults.py

# `pip install atheris` in the environment makes the inputs better chosen.
fuzz: $(DEV)/ready
	PYTHONPATH=.:test $(DEV)/bin/python test/fuzz.py \
	  $(if $(SECONDS),--seconds $(SECONDS),--inputs $(or $(INPUTS),10000)) $(if $(TARGETS),--targets $(TARGETS))

evaluate: $(DEV)/ready
	$(DEV)/bin/mixformerv2 evaluate --root ../shared/data/sequences \
	  --sequences mixformerv2_ros/lab/evaluation/held_out.txt --output runs/evaluation \
	  --trackers mixformer,KCF,MIL,CSRT,Nano=../shared/data/peers/nanotrackv1,Nano=../shared/data/peers/nanotrackv2,ViT=../shared/data/peers/vittrack/object_tracking_vittrack_2023sep.onnx

# DATA, a video with BOX or a folder of annotated sequences, calibrates bundles in int8 to measure beside.
PEERS ?= ../shared/data/peers
TRACKERS := CSRT,KCF,MIL,Nano=$(PEERS)/nanotrackv1,Nano=$(PEERS)/nanotrackv2,ViT=$(PEERS)/vittrack/object_tracking_vittrack_2023sep.onnx
QUANTIZE := --precision int8 --force --frames 60 --samples 64 --max-sensitivity 1
benchmark: $(DEV)/ready
	@mkdir -p runs
	$(DEV)/bin/python test/formula_bundle.py S runs/formula_s
ifneq ($(DATA),)
	$(DEV)/bin/mixformerv2 quantize mixformerv2_ros/models/default -o runs/int8 $(QUANTIZE) --data "$(DATA)" $(addprefix --box ,$(BOX))
	$(DEV)/bin/mixformerv2 quantize runs/formula_s -o runs/int8_s $(QUANTIZE) --data "$(DATA)" $(addprefix --box ,$(BOX))
endif
	$(DEV)/bin/mixformerv2 benchmark --threads 1 --json runs/benchmark.json --report runs/benchmark.html \
	  $(if $(DATA),--compare runs/int8) $(if $(wildcard $(PEERS)),--trackers $(TRACKERS))
	$(DEV)/bin/mixformerv2 benchmark runs/formula_s --threads 1 --json runs/benchmark_s.json \
	  $(if $(DATA),--compare runs/int8_s)

train: $(DEV)/ready
	$(DEV)/bin/mixformerv2 train config/training/scratch_t.yaml

# Continues where it was stopped. DATA names a folder with stills/ and sequences/ to learn from instead
# of drawn pictures.
DATA ?=
distill-demo: $(DEV)/ready
	$(DEV)/bin/mixformerv2 train config/training/demo/recipe.yaml $(if $(DATA),output=runs/distill_demo_data \
	  common.data.folder="$(DATA)" common.data.exclude=mixformerv2_ros/lab/datasets/validation.txt)

# Environments. A fresh Debian has no ensurepip until python3-venv is installed.
define make_environment
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing python3-venv"; .ci/apt_install python3-venv; \
	  else \
	    echo "$(PYTHON) lacks venv: install it first (Debian, Ubuntu: sudo apt install python3-venv)" >&2; exit 2; \
	  fi; }
	@echo "setting up $(1)"
	@"$(PYTHON)" -m venv $(1)
endef

$(RUN)/ready: setup.py pyproject.toml package.xml
	$(call make_environment,$(RUN))
	@$(RUN)/bin/python -m pip install $(PIP_OPTIONS) --editable '.[report]'
	@touch $@

# The contrib wheel holds all of OpenCV and more; both wheels write the same folder, and the last one
# in wins.
$(DEV)/ready: $(METADATA)
	$(call make_environment,$(DEV))
	@$(DEV)/bin/python -m pip install $(PIP_OPTIONS) --constraint constraints-dev.txt --editable '.[dev]'
	@$(DEV)/bin/python -m pip install $(PIP_OPTIONS) --constraint constraints-dev.txt \
	  --force-reinstall --no-deps opencv-contrib-python-headless
	@touch $@

$(LOWEST)/ready: $(METADATA)
	$(call make_environment,$(LOWEST))
	@$(LOWEST)/bin/python -m pip install $(PIP_OPTIONS) --constraint constraints-lowest.txt \
	  --editable '.[dds,mavlink,openvino,report,rerun]' hypothesis 'pytest>=8' setuptools wheel
	@touch $@

clean:
	rm -rf $(RUN) $(DEV) $(LOWEST) demo_out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis
