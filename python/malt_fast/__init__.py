"""malt-fast: train a generator, a verifier and a refiner that answer questions together (MALT).

Importing the package is cheap: no torch, no transformers, no datasets. The programs are
`python -m malt_fast.train`, `malt_fast.evaluate`, `malt_fast.export` and `malt_fast.serve`, in one
`malt-fast`; `import malt_fast.api as mf` is the method from Python; the C++ core is
`malt_fast._core`.
"""

__all__ = ["__version__"]


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("malt-fast")
