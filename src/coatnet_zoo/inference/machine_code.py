"""Calling machine code of AOTInductor without Python's interpreter lock, so that several threads can compute.

torch's own loader holds the lock while the code computes. ctypes calls the same C interface and does not.
"""

import ctypes
import functools
import sys
import tempfile
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_CONVERSIONS = ('unsafe_alloc_void_ptrs_from_tensors', 'alloc_tensors_by_stealing_from_void_ptrs')


def _library_in(file: Path) -> str | None:
    """The name of the shared library in a package; None if only torch's loader can call the library."""
    if sys.platform == 'win32' or not all(hasattr(torch._C._aoti, name) for name in _CONVERSIONS):
        return None
    with zipfile.ZipFile(file) as package:
        names = package.namelist()
    libraries = [name for name in names if name.endswith('.so')]
    # A table beside the library lists operators that are called through Python.
    if len(libraries) != 1 or libraries[0].removesuffix('.so') + '.json' in names:
        return None
    return libraries[0]


@functools.cache
def _capsules() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Python's functions that read an address from a capsule, and that make a capsule of an address."""
    read = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return read(('PyCapsule_GetPointer', ctypes.pythonapi)), make(('PyCapsule_New', ctypes.pythonapi))


class MachineCode:
    """The function of one tensor that a package computes.

    Args:
        file: A package of AOTInductor, whose code is executed.

    Raises:
        RuntimeError: If the code does not start.
        OSError: If the code cannot be read or copied.
        BadZipFile: If the file is not a package.
    """

    def __init__(self, file: Path) -> None:
        library = _library_in(file)
        self.is_parallel = library is not None
        """Whether threads can compute at the same time."""
        if library is None:
            self._call = torch._inductor.aoti_load_package(str(file))
            return
        # A file that is loaded twice is one library, so every call makes a file of its own.
        with tempfile.TemporaryDirectory(prefix='coatnet_zoo_') as folder, zipfile.ZipFile(file) as package:
            code = ctypes.CDLL(package.extract(library, folder))
            container = ctypes.c_void_p()
            threads = ctypes.c_size_t(torch.get_num_threads())
            create = code.AOTInductorModelContainerCreateWithDevice
            if create(ctypes.byref(container), threads, b'cpu', None):
                raise RuntimeError(f'The code in {file.name} does not start.')
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
