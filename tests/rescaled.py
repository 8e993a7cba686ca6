"""A network whose function is unchanged but whose channels are not: a quarter of them scaled, undone by their reader."""

import torch
from safetensors.torch import load_file, save_file


def rescale(source, target, *, factor=64.0, only="layer", seed=5):
    """Write the weights of `source` with a quarter of the channels inside each block times `factor`.

    The scale lies in the BatchNorm before each ReLU, and its inverse in the convolution that reads it.
    """
    generator = torch.Generator().manual_seed(seed)
    state = load_file(source)
    for name in [name for name in state if name.endswith((".bn1.weight", ".bn2.weight")) and name.startswith(only)]:
        block, norm, _ = name.rsplit(".", 2)
        channels = len(state[name])
        factors = torch.ones(channels)
        factors[torch.randperm(channels, generator=generator)[: channels // 4]] = factor
        state[name] = state[name] * factors
        state[f"{block}.{norm}.bias"] = state[f"{block}.{norm}.bias"] * factors
        reader = f"{block}.conv{int(norm[-1]) + 1}.weight"
        weight = state[reader]
        groups = channels // weight.shape[1]
        by_row = factors.view(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(len(weight), -1)
        state[reader] = weight / by_row[:, :, None, None]
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)
    return target
