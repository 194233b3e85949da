"""Recordings of other formats to the event_flow layout: ``python -m calib_data.prepare --help``."""

from calib_data.prepare.command import main
from calib_data.prepare.conversion import Options, Summary, convert
from calib_data.prepare.recording import Recording

__all__ = ["Options", "Recording", "Summary", "convert", "main"]
