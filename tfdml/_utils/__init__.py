"""Private helpers: argument checks, names, files, and the differences between the Keras lines."""
