"""Showing names that come from files in messages: on one line and short, whatever a file has for a name."""

_LONGEST = 80


def shown(name: object, longest: int = _LONGEST) -> str:
    """A name as a message shows it: what cannot be printed is escaped, the middle of a long name is left out.

    Args:
        name: A name. Of an object that is no text, a number or a path, only the type is shown.
        longest: Characters that are shown at most.
    """
    if not isinstance(name, (str, int)) and not hasattr(name, '__fspath__'):
        return f'a {type(name).__name__}'
    if isinstance(name, int) and name.bit_length() > 64:
        return 'a huge number'
    text = str(name)
    half = longest // 2
    if len(text) > longest:
        text = f'{text[:half]}...{text[-half:]}'
    return text if text.isprintable() else repr(text)[1:-1]
