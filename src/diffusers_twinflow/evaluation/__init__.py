"""Evaluate a TwinFlow model and its base: metrics, the runner and the report. Needs the extra `evaluate`."""
