"""The napari face; the only package that knows napari and Qt."""
