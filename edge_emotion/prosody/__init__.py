"""Prosody: what an explanation may rest on, measured in the signal with NumPy alone."""

from edge_emotion.prosody.measures import measure_prosody
from edge_emotion.prosody.records import UNITS, Contour, Measure, Prosody

__all__ = ["UNITS", "Contour", "Measure", "Prosody", "measure_prosody"]
