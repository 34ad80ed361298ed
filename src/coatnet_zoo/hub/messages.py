"""Error messages for users: one line, without passwords and tokens, and never longer than a screen."""

import re
from urllib.parse import unquote

from huggingface_hub import constants, get_token
from huggingface_hub.errors import HfHubHTTPError

_LONGEST = 1000
_HIDDEN = '***'
_LOGIN = re.compile(r'(?<=://)[^\s/?#]*@')  # the login in an address with a user name or a password
_QUERY = re.compile(r'\?[^\s\'"<>]*=[^\s\'"<>)]*')  # the query has the signature, in addresses that the Hub signs


def sentence(error: BaseException) -> str:
    """The message of an error of the Hub, of the HTTP client or of the file system, in one line without secrets.

    The messages of huggingface_hub have a status line, then its meaning, then advice. Some messages hide the cause.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = without_secrets(' '.join(lines[:2]) or type(error).__name__)
    if not isinstance(error, HfHubHTTPError):
        cause = sentence(error.__cause__) if error.__cause__ else said
        return said if cause in said else f'{said} ({cause})'
    if error.response.status_code in (401, 403):
        said += ' For a private or gated repository, set HF_TOKEN or log in by `hf auth login`.'
    return said


def without_secrets(text: str) -> str:
    """A text of bounded length without the logins and queries of addresses, and without the user's token and login."""
    login = constants.ENDPOINT.partition('://')[2].rpartition('@')[0]
    password = login.partition(':')[2]
    for secret in (login, password, unquote(password), get_token() or ''):
        # Shorter secrets also occur as parts of words. The lines below hide shorter secrets in addresses.
        if len(secret) > 3:
            text = text.replace(secret, _HIDDEN)
    text = _QUERY.sub('', _LOGIN.sub('', text))
    text = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= _LONGEST else f'{text[:_LONGEST]}...'


def endpoint() -> str:
    """The address of the Hub, without the login that HF_ENDPOINT may have."""
    return _LOGIN.sub('', without_secrets(constants.ENDPOINT))
