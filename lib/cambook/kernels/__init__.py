"""Small GPU kernels, one file each: the formula, a plain reference for any device, and a Triton kernel.

Each is a torch custom operator "cambook::NAME": on CUDA it runs the Triton kernel, anywhere else the
reference. `torch.compile` takes a caller whole. None has a gradient.
"""
