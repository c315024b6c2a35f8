"""Sampled outputs on disk, each by what it depends on."""
