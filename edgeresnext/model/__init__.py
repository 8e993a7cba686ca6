"""The networks: architecture, catalogue, checkpoints and training. The only PyTorch code beside the compiler."""
