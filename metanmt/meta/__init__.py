"""The idea: episodes, the inner loop, the outer loop."""
