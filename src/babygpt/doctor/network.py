"""The network and the hub: one request of at most a few seconds, and what is known of a token without telling it."""

from __future__ import annotations

import email.utils
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from babygpt.doctor.environment import is_true
from babygpt.doctor.findings import Finding, fault, ok, warning

__all__ = ["check_network", "check_token"]

_HUB = "https://huggingface.co"
_SECONDS = 4.0
_SKEW = 300.0  # seconds, from which on certificates and signed addresses are refused
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_LOCAL = "Train on local files and folders or presets, and set HF_HUB_OFFLINE=1 so that nothing waits"


@dataclass(frozen=True)
class _Answer:
    """What came of a request.

    Args:
        date: of the answer, seconds since 1970; None if it says none.
        error: why there is no answer; None where there is one, whatever it says.
        untrusted: whether the certificate was refused.
    """

    date: float | None = None
    error: str | None = None
    untrusted: bool = False


def check_network() -> Iterator[Finding]:
    """Whether the hub answers, and what its clock shows."""
    if is_true(os.environ.get("HF_HUB_OFFLINE")) or is_true(os.environ.get("TRANSFORMERS_OFFLINE")):
        yield ok("hub", "not asked, as HF_HUB_OFFLINE says: local folders, presets and cached models only")
        return
    endpoint = os.environ.get("HF_ENDPOINT") or _HUB
    answer = _ask(endpoint)
    if answer.untrusted:
        yield fault(
            "hub",
            f"{endpoint} answers with a certificate that is not trusted ({answer.error})",
            "Set the clock; behind a company's proxy, set SSL_CERT_FILE to its certificates",
        )
    elif answer.error is not None:
        yield warning("hub", f"{endpoint} does not answer ({answer.error})", _LOCAL)
    else:
        yield ok("hub", f"{endpoint} answers")
    if answer.date is not None and abs(skew := time.time() - answer.date) > _SKEW:
        yield fault("clock", f"it is {skew:+,.0f} s from the hub's", "Set the clock, by NTP if you can")


def check_token() -> Iterator[Finding]:
    """Whether there is a token, and whether it is well kept; never which."""
    name = next((n for n in _TOKENS if os.environ.get(n)), None)
    file = _token_file()
    if name is not None:
        value = os.environ[name]
        if value != value.strip() or not value.isascii() or len(value.split()) != 1:
            yield fault("token", f"{name} holds spaces or characters that no token has", "Set it again")
        else:
            yield ok("token", f"{name} holds one")
    elif not os.path.exists(file):
        yield ok("token", "there is none: public models and data only")
    elif os.name != "nt" and file.stat().st_mode & 0o077:
        yield warning("token", f"other users may read {file}", f"chmod 600 {file}")
    else:
        yield ok("token", f"{file} holds one")


def _token_file() -> Path:
    """Where the hub's library keeps it."""
    own = os.environ.get("HF_TOKEN_PATH")
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
    )
    return Path(own or os.path.join(home, "token")).expanduser()


def _ask(address: str) -> _Answer:
    """One request, through whatever proxy is set; in a thread, since a time limit does not cover looking up a name."""
    found = [_Answer(error=f"no answer in {_SECONDS:g} s")]

    def attempt() -> None:
        found[0] = _request(address)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(_SECONDS)
    return found[0]


def _request(address: str) -> _Answer:
    try:
        request = urllib.request.Request(address, method="HEAD")
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            return _Answer(_date(response.headers.get("Date")))
    except urllib.error.HTTPError as error:
        return _Answer(_date(error.headers.get("Date")))
    except urllib.error.URLError as error:
        return _Answer(
            error=str(error.reason), untrusted=isinstance(error.reason, ssl.SSLCertVerificationError)
        )
    except (OSError, ValueError) as error:
        return _Answer(error=str(error) or type(error).__name__)


def _date(header: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(header).timestamp() if header else None
    except ValueError:
        return None
