"""From a checkpoint to a bundle, and from a bundle to one with engines: `build` first, then `on_device`."""
