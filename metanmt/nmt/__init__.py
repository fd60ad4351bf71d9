"""Ordinary neural machine translation; knows nothing of meta-learning."""
