"""Names of models and tokenizers to local folders.

A folder is taken as it is. A hub name is looked for in the local cache first; only then is the network asked,
and a computer without one says so within three seconds. Only data is ever downloaded: JSON, text and
safetensors.
"""

from __future__ import annotations

import functools
import os
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from babygpt.disk import expanded
from babygpt.errors import ModelError
from babygpt.presets import preset_config, preset_names
from babygpt.untrusted import read_json, shown

__all__ = ["fetch", "looks_like_path", "model_config", "reachable"]

What = Literal["model", "tokenizer"]

_PROBE_SECONDS = 3.0
_TEXT_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
_PATTERNS: dict[str, tuple[str, ...]] = {"model": (*_TEXT_FILES, "*.safetensors"), "tokenizer": _TEXT_FILES}
# Subfolders hold other formats of the same weights, as does the "consolidated" file of some repositories.
_IGNORED = ("*/*", "consolidated*")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length")
_LOCAL_HINT = "Give a local folder, or preset:NAME for a model with random weights"


def fetch(name: str, *, revision: str | None = None, what: What) -> Path:
    """The local folder of a model or tokenizer.

    Args:
        name: a folder, or a hub name such as `gpt2` or `owner/model`.
        revision: branch, tag or commit of a hub name; the default branch if None.
        what: `model` needs weights in safetensors; `tokenizer` downloads no weights.

    Raises:
        ModelError: the folder is not there, the hub does not have it, it holds no safetensors, or there is no
        network.
    """
    folder = expanded(name)
    if folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"is a folder, and has no revision {revision!r}",
                where=name,
                hint="Leave model.revision out, or give a hub name",
            )
        return folder
    if folder.is_file():
        raise ModelError(
            "this is a file, not a folder", where=name, hint="Give the folder that holds config.json"
        )
    if looks_like_path(name):
        raise ModelError(
            "no such folder", where=name, hint=f"Check the path (from {Path.cwd()}), or give a hub name"
        )
    cached = _cached(name, revision, what)
    if cached is not None:
        return cached
    if not reachable():
        raise ModelError(
            "no folder of this name, not in the local cache, and the Hugging Face hub cannot be reached",
            where=name,
            hint=f"Did you mean preset:{name}" if name in preset_names() else _LOCAL_HINT,
        )
    return _download(name, revision, what)


def model_config(name: str, *, revision: str | None = None) -> dict[str, Any]:
    """The contents of a model's config.json, its context length always under `max_position_embeddings`.

    Args:
        name: `preset:NAME`, a folder or a hub name.
        revision: of a hub name.

    Raises:
        RecipeError: an unknown preset.
        ModelError: as `fetch`, or the folder has no config.json that can be read.
    """
    if name.startswith("preset:"):
        config = preset_config(name.removeprefix("preset:"))
    else:
        file = fetch(name, revision=revision, what="tokenizer") / "config.json"
        try:
            config = read_json(file)
            if not isinstance(config, dict):
                raise ValueError("it holds no object")
        except (OSError, ValueError) as error:
            hint = "Give a folder that save_pretrained has written"
            raise ModelError(
                f"no readable config.json ({_first_line(error)})", where=name, hint=hint
            ) from error
    known = (config[key] for key in _POSITIONS if config.get(key))
    return {**config, "max_position_embeddings": next(known, None)}


def looks_like_path(name: str) -> bool:
    """Whether a name was meant as a folder: the hub has no such names, or its first part is a folder here."""
    if name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or name.endswith("/"):
        return True
    return "/" in name and Path(name).parent.is_dir()


@functools.cache
def reachable() -> bool:
    """Whether the hub answers: a connection tried for at most three seconds, once a process.

    False at once under HF_HUB_OFFLINE=1; True without trying where a proxy stands between, since only
    requests pass it.
    """
    import huggingface_hub.constants as constants

    if _is_offline():
        return False
    endpoint = urlsplit(constants.ENDPOINT)
    if urllib.request.getproxies().get(endpoint.scheme) and not urllib.request.proxy_bypass(
        endpoint.hostname or ""
    ):
        return True
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    return _connects(endpoint.hostname or "", port)


def _is_offline() -> bool:
    import huggingface_hub.constants as constants

    value = os.environ.get("HF_HUB_OFFLINE", "").strip().upper()
    return bool(constants.HF_HUB_OFFLINE) or value in {"1", "ON", "YES", "TRUE"}


def _connects(host: str, port: int) -> bool:
    connected = threading.Event()

    def attempt() -> None:
        try:
            socket.create_connection((host, port), timeout=_PROBE_SECONDS).close()
        except OSError:
            return
        connected.set()

    # In a thread, because a socket's time limit does not cover the look-up of the host's name.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return connected.is_set()


def _cached(name: str, revision: str | None, what: What) -> Path | None:
    """The cached snapshot, if it holds what is needed; an earlier call may have fetched only a tokenizer."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                local_files_only=True,
                allow_patterns=list(_PATTERNS[what]),
                ignore_patterns=list(_IGNORED),
            )
        )
    except HFValidationError as error:
        raise ModelError(
            "this is neither a folder nor a possible hub name", where=name, hint=_LOCAL_HINT
        ) from error
    except OSError:
        return None
    if what == "tokenizer":
        return folder if any((folder / file).exists() for file in _TOKENIZER_FILES) else None
    complete = (folder / "config.json").exists() and any(folder.glob("*.safetensors"))
    return folder if complete else None


def _download(name: str, revision: str | None, what: What) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        if what == "model":
            files = HfApi().list_repo_files(name, revision=revision)
            if not any(f.endswith(".safetensors") and "/" not in f for f in files):
                raise ModelError(
                    "the repository holds no weights in safetensors, and no pickle is ever loaded",
                    where=name,
                    hint="Choose a repository or revision with model.safetensors",
                )
        return Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(_PATTERNS[what]),
                ignore_patterns=list(_IGNORED),
            )
        )
    except GatedRepoError as error:
        raise ModelError(
            "the repository is gated",
            where=name,
            hint="Ask for access on its page and log in with `hf auth login`",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"the repository has no revision {revision!r}", where=name) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            "the hub has no such repository, or it is private",
            where=name,
            hint="Check the spelling, or log in",
        ) from error
    except ModelError:
        raise
    except Exception as error:  # of the system, of the library, of the library it uses: some are no OSError
        raise ModelError(
            f"the download failed: {_first_line(error)}", where=name, hint="Try again"
        ) from error


def _first_line(error: BaseException) -> str:
    return shown((str(error).strip() or type(error).__name__).splitlines()[0].rstrip("."), 300)
