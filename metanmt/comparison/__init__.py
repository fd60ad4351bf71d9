"""Fair comparisons: what is to be run, running it, statistics, tables."""
