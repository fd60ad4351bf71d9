"""One file a command, read from top to bottom; recipes never import each other."""
