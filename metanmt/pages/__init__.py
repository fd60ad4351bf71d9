"""Pages to send to a colleague: one HTML file with everything in it."""
