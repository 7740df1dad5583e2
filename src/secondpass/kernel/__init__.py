"""A compiled forward for CPUs: float32, bfloat16 and int8 in the widest instructions the processor has."""

from secondpass.kernel.forward import kernel_forward

__all__ = ["kernel_forward"]
