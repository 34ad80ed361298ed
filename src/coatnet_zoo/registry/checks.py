"""Checking a value against a type hint, for arguments from code, command lines and files."""

import math
import reprlib
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

# Hints that also limit the numbers. The text completes the sentence "... must be". The largest numbers are far above
# those of any network, and torch can still count the values of every tensor.
Count = Annotated[int, 'a positive integer up to 1048576', 1, 1 << 20]
Positive = Annotated[float, 'a positive number up to 1048576', 1e-300, 1 << 20]
Ratio = Annotated[float, 'a positive number up to 64', 1e-300, 64]
Epsilon = Annotated[float, 'a positive number below 1', 1e-300, 0.999]
Share = Annotated[float, 'a number from 0 to 1', 0, 1]
Crop = Annotated[float, 'a number from 0.1 to 1', 0.1, 1]
Channels = Annotated[int, 'an integer from 1 to 65536', 1, 1 << 16]
Classes = Annotated[int, 'an integer from 0 to 16777216', 0, 1 << 24]
Patch = Annotated[int, 'a positive integer up to 512', 1, 512]
# The side of an image, in pixels. The largest image has 800 MB in float32.
Side = Annotated[int, 'an integer number of pixels from 32 to 8192', 32, 8192]

_WORDS: dict[Any, str] = {
    bool: 'True or False', int: 'an integer', float: 'a number',
    str: 'text', dict: 'a dictionary of strings', NoneType: 'None',
}  # fmt: skip
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = _SHORT.maxtuple = 8
_SHORT.maxlevel = 3


def short(value: Any) -> str:
    """The `repr` of a value, shortened, because values from files may have any length and depth."""
    return _SHORT.repr(value)


def check(name: str, value: Any, hint: Any) -> None:
    """Raise a one-line `ValueError` if a value does not fit a type hint.

    Args:
        name: Name of the value in the error.
        value: Any value. A list counts as a tuple, because JSON has no tuples.
        hint: `bool`, `int`, `float`, `str`, `None`, `dict` (of strings by strings), `Literal`, `tuple[X, ...]`,
            `tuple[X, Y]`, a union of hints, or one of the hints of this module. Numbers must be finite.
    """
    if _fits(value, hint):
        return
    if get_origin(hint) is Literal:
        raise ValueError(f'{name}={short(value)} does not exist; choose one of {get_args(hint)}.')
    raise ValueError(f'{name}={short(value)} must be {_words(hint)}.')


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Annotated:
        kind, _, lowest, highest = args
        return _fits(value, kind) and lowest <= value <= highest
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        hints = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return len(value) == len(hints) and all(map(_fits, value, hints))
    if hint is dict:
        return isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair)
    if hint in (int, float):
        # Python compares integers of any length, but the largest integers cannot become floats.
        return isinstance(value, (int, hint)) and not isinstance(value, bool) and abs(value) < math.inf
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return ' or '.join(map(_words, args))
    if origin is Annotated:
        return args[1]
    if origin is Literal:
        return f'one of {args}'
    if origin is tuple:
        length = '' if args[-1] is Ellipsis else f' of {len(args)} values'
        return f'a list{length}, each {_words(args[0])}'
    return _WORDS[hint]
