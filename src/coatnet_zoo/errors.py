"""Every public exception of the package, and helpers for messages that show a name or another exception."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, does not exist, or does not fit the model or the folder that it is meant for."""


class HubError(RuntimeError):
    """Weights cannot be fetched from the Hub or a release page, or cannot be published on the Hub."""


class UnknownNameError(ValueError):
    """There is no model or implementation of that name, or it has no published weights."""


class ExplainError(ValueError):
    """An image or a model cannot be explained, or the extra `explain` is not installed."""


class ExportError(ValueError):
    """A model cannot be exported as requested, or what the format needs is not installed."""


class FinetuneError(ValueError):
    """Photos cannot be trained on as requested, or training cannot continue."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the exception's type if there is no message."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__


def is_utf8(path: object) -> bool:
    """Whether the name of a path is UTF-8, which torch and safetensors need; Python keeps other bytes as surrogates."""
    return not any('\ud800' <= character <= '\udfff' for character in str(path))


def shown(name: object, longest: int = 200) -> str:
    """A name for a message: unprintable characters are escaped, and the middle of a long name is left out.

    Args:
        name: A name. If the object is not a string, a number or a path, only its type is shown.
        longest: The largest number of characters to show.
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
