"""
The C++ core.

Arrays go in as anything that NumPy turns into the right numbers without loss; an
array of exactly that type is not copied. Columns come out as read-only views
without a copy. Invalid input raises ValueError and changes nothing. The GIL is
released while the core works.
"""

from __future__ import annotations

from . import answers, forest, kernels, packing

__all__: list[str] = ["answers", "forest", "kernels", "packing"]
__version__: str = "0.1.0"
