"""What conversions offer by name, for commands that are read before torch is imported."""

K_QUANTS = ("q6_k", "q5_k_m", "q5_k_s", "q4_k_m", "q4_k_s", "q3_k_m")
GGUF_TYPES = ("f16", "q8_0", *K_QUANTS)

ROUNDED = ("fp8", "int8", "w4a16")
GROUP_SIZES = (128, 64, 32)
"""Those that vLLM's kernels have."""
