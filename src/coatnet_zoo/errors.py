"""Every public exception of the package, and the first line of the message of any exception."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, does not exist, or does not fit the model or the folder that it is meant for."""


class HubError(RuntimeError):
    """Weights cannot be had from the Hugging Face Hub or from a release page, or cannot be published there."""


class ExplainError(ValueError):
    """An image or a model cannot be explained, or the extra `explain` is not installed."""


class ExportError(ValueError):
    """A model cannot be exported as asked for, or what the format needs is not installed."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the exception's type if there is no message."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__
