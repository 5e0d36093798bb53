"""Exported detectors without torch and without the host: sessions, engine builder, decoding, model file."""
