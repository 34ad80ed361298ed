"""Checking a value against a type hint: for arguments that people, command lines and files give."""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

# Hints that also say which numbers are allowed. The text completes the sentence "... must be".
Count = Annotated[int, 'a positive whole number']
Positive = Annotated[float, 'a positive number']

_WORDS = {bool: 'True or False', int: 'a whole number', float: 'a number', str: 'text', NoneType: 'None'}


def check(name: str, value: Any, hint: Any) -> None:
    """Raise a `ValueError` of one sentence, unless a value is of the type that a hint says.

    Args:
        name: What to call the value.
        value: Any value. A list counts as a tuple, because JSON has no tuples.
        hint: `bool`, `int`, `float`, `str`, `None`, `Literal`, `tuple[X, ...]`, `tuple[X, Y]`, a union of hints, or one
            of the hints of this module.
    """
    if fits(value, hint):
        return
    if get_origin(hint) is Literal:
        raise ValueError(f'{name}={value!r} does not exist; choose one of {get_args(hint)}.')
    raise ValueError(f'{name}={value!r} must be {_words(hint)}.')


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a hint says, see `check`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Annotated:
        return fits(value, args[0]) and value > 0
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            return False
        hints = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return len(value) == len(hints) and all(map(fits, value, hints))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
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
