"""Measure umbel beside its peers, in one run, rounds interleaved."""
