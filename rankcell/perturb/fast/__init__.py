"""Edits predicted: linear response, calibration by edits that are run, and the audit of what is predicted."""
