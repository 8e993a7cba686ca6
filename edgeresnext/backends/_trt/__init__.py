"""What TensorRT and TensorRT-RTX share: building in a child process, identity, anatomy, and the session."""
