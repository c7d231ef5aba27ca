"""tlkit: turn a folder of images into a classifier. The layout is described in docs/architecture.md."""

__version__ = "0.1.0"
