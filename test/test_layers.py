"""Imports run downwards: the contracts of .importlinter hold, notice what breaks them, and keep torch and
the laboratory out of what a robot runs."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recordings import PERIOD_NS, video  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "mixformerv2_ros"
CONTRACTS = ".importlinter"


def contract_names() -> dict[str, str]:
    """Title of each contract by its short name."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / CONTRACTS)
    prefix = "importlinter:contract:"
    return {
        section.removeprefix(prefix): parser[section]["name"]
        for section in parser.sections()
        if section.startswith(prefix)
    }
