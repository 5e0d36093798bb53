"""Model, criterion and trainer of the detectors.

Import from the modules: `model` and `criterion` must stay importable while the host's own engine is still loading.
"""
