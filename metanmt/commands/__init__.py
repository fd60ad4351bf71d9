"""The commands: the arguments of each, what it calls, what it prints; in groups, a file each."""
