"""Puts the synthetic voices beside the tests on their import path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
