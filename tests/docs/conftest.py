"""Puts the scripts on the path: pages name the study that one of them simulates."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
