"""From a PyTorch module to ONNX files: trace and fold, calibrate, plan, emit."""

INPUT = "input"
"""Name of the normalised image tensor, the input of the first convolution."""
