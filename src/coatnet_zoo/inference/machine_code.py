"""Calling machine code of AOTInductor without Python's interpreter lock, so that several threads can compute.

torch's own loader holds the lock while the code computes. ctypes calls the same C interface and does not.
"""

import ctypes
import functools
import os
import shutil
import sys
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_LIBRARY = '.so'
_CONVERSIONS = ('unsafe_alloc_void_ptrs_from_tensors', 'alloc_tensors_by_stealing_from_void_ptrs')


def take_library(package: Path) -> Path:
    """Replace a package by the shared library that is in the package, unless only torch's loader can call that.

    A library needs no copy to be loaded, and all models and processes that load the library share its weights.

    Args:
        package: A package of AOTInductor, `*.pt2`.

    Returns:
        The library, `*.so`, in the same folder; or the package.
    """
    if sys.platform == 'win32' or not all(hasattr(torch._C._aoti, name) for name in _CONVERSIONS):
        return package
    library = package.with_suffix(_LIBRARY)
    with zipfile.ZipFile(package) as content:
        names = content.namelist()
        libraries = [name for name in names if name.endswith(_LIBRARY)]
        # A table beside the library lists operators that are called through Python.
        if len(libraries) != 1 or libraries[0].removesuffix(_LIBRARY) + '.json' in names:
            return package
        with content.open(libraries[0]) as source, library.open('wb') as target:
            shutil.copyfileobj(source, target)
    package.unlink()
    return library


@functools.cache
def _capsules() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Python's functions that read an address from a capsule, and that make a capsule of an address."""
    read = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return read(('PyCapsule_GetPointer', ctypes.pythonapi)), make(('PyCapsule_New', ctypes.pythonapi))


class MachineCode:
    """The function of one tensor that a library or a package computes.

    Args:
        file: A file of `take_library`, whose code is executed.

    Raises:
        RuntimeError: If the code does not start.
        OSError: If the code cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.is_parallel = file.suffix == _LIBRARY
        """Whether threads can compute at the same time."""
        if not self.is_parallel:
            self._call = torch._inductor.aoti_load_package(str(file))
            return
        code, container = ctypes.CDLL(str(file)), ctypes.c_void_p()
        # Callers beyond this number wait for each other; `torch.set_num_threads` may raise theirs later.
        callers = ctypes.c_size_t(max(torch.get_num_threads(), os.cpu_count() or 1))
        if code.AOTInductorModelContainerCreateWithDevice(ctypes.byref(container), callers, b'cpu', None):
            raise RuntimeError(f'the code in {file.name} does not start')
        weakref.finalize(self, code.AOTInductorModelContainerDelete, container)
        self._call = functools.partial(self._run, code.AOTInductorModelContainerRun, container)

    @staticmethod
    def _run(run: Callable[..., int], container: ctypes.c_void_p, x: torch.Tensor) -> torch.Tensor:
        read, make = _capsules()
        one, inputs, outputs = ctypes.c_size_t(1), (ctypes.c_void_p * 1)(), (ctypes.c_void_p * 1)()
        # The code takes the inputs over, and hands the outputs over.
        inputs[0] = read(torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors([x])[0], None)
        if run(container, inputs, one, outputs, one, None, None):
            raise RuntimeError('The machine code of this model has failed; the reason is above.')
        return torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs([make(outputs[0], None, None)])[0]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Call the code with a tensor of the sizes, strides and precision that the code was compiled for."""
        return self._call(x)
