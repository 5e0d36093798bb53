"""Pure functions on tensors: the mathematics of the papers without parameters or state."""

from ultra_dsmoe.ops import poincare
from ultra_dsmoe.ops.deform_sample import deform_sample
from ultra_dsmoe.ops.image_gradient import central_difference, forward_difference, gradient_magnitude

__all__ = ["central_difference", "deform_sample", "forward_difference", "gradient_magnitude", "poincare"]
