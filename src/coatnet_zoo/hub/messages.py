"""Error messages for users: one line with the cause and the fix, without passwords and tokens."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from huggingface_hub import constants, get_token

from ..errors import CheckpointError, HubError

_LONGEST = 1000
_LOGIN = re.compile(r'(?<=://)[^\s/?#]*@')  # the login in an address with a user name or a password
_QUERY = re.compile(r'\?[^\s\'"<>]*=[^\s\'"<>)]*')  # the query of a signed address holds the signature
_LOG_IN = ' Log in with `hf auth login`, or set HF_TOKEN to a token with access, which for `push` may write.'
_WAIT = ' The Hub limits the number of requests: wait five minutes, or log in with `hf auth login`.'
_WAYS_OUT = {401: _LOG_IN, 403: _LOG_IN, 429: _WAIT}


@contextmanager
def one_line_error(kind: type[HubError] | type[CheckpointError], what: str) -> Iterator[None]:
    """Raise exceptions of libraries and of the file system as an error of this package: `what`, and the cause."""
    try:
        yield
    except (HubError, CheckpointError):
        raise
    except Exception as e:
        raise kind(f'{without_secrets(what)}: {one_line(e).rstrip(".")}.') from e


def one_line(error: BaseException) -> str:
    """The message of an error of the Hub, of the HTTP client or of the file system, in one line without secrets.

    The messages of huggingface_hub have a status line, then its meaning, then more. Some messages hide the cause.
    """
    if isinstance(error, UnicodeEncodeError) and not (get_token() or '').isascii():
        return 'the token of HF_TOKEN or `hf auth login` has non-ASCII characters; set it again'
    text = str(getattr(error, 'strerror', None) or error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    message = ' '.join(line for line in lines[:2] if not line.startswith('For more information'))
    message = without_secrets(message or type(error).__name__)
    if response := getattr(error, 'response', None):
        return message + _WAYS_OUT.get(response.status_code, '')
    cause = one_line(error.__cause__) if error.__cause__ else message
    return message if cause in message else f'{message} ({cause})'


def without_secrets(text: str) -> str:
    """A text of bounded length without the logins and queries of addresses, and without the user's token and login."""
    login = constants.ENDPOINT.partition('://')[2].rpartition('@')[0]
    password = login.partition(':')[2]
    for secret in (login, password, unquote(password), get_token() or ''):
        if len(secret) > 3:  # shorter ones are parts of words, too; the lines below hide them in addresses
            text = text.replace(secret, '***')
    text = _QUERY.sub('', _LOGIN.sub('', text))
    text = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'
