"""Builds m2det.ops._nms: for the wheel, and in place with `python setup.py build_ext --inplace`."""

from Cython.Build import cythonize
from setuptools import Extension, setup

# Every machine gets the same results from the same sources: no -march=native, no -ffast-math, and no fused
# multiply-add, which gcc otherwise uses where the processor has it (always on aarch64).
FLAGS = ["-O3", "-ffp-contract=off"]

setup(
    ext_modules=cythonize(
        Extension("m2det.ops._nms", ["m2det/ops/nms.pyx"], extra_compile_args=FLAGS),
        build_dir="build",
    )
)
