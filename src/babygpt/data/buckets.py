"""Files of whatever fsspec opens: object stores, the Hugging Face hub, file servers.

A path there may be a file, a pattern or a folder, of which the same files are read as of one on the disk. A version
is told by what the file system says of it besides the size; where it says nothing, every start fetches anew.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from babygpt.data.folders import read_in_a_folder
from babygpt.data.transfer import Answer, BrokenOffError, Stamp, no_parts
from babygpt.errors import DataError
from babygpt.untrusted import redacted

__all__ = ["BucketSource", "bucket_file", "bucket_sources"]

_BLOCK = 2**22
_VERSIONS = (
    *("ETag", "etag", "generation", "md5Hash", "content_md5", "xet_hash", "blob_id"),
    *("LastModified", "last_modified", "updated", "mtime", "created"),
)


def bucket_sources(url: str) -> tuple[list[BucketSource], str]:
    """The files behind an address, sorted; and what else lies there and is not read, in words.

    Raises:
        DataError: what opens such addresses is not installed, or there is no file of a kind that is read.
    """
    filesystem, root = _filesystem(url)
    names, left_out = _names(filesystem, root, url)
    return [BucketSource(filesystem, name, url) for name in names], left_out


def bucket_file(url: str) -> BucketSource:
    """The one file that an address names; whether it is there shows when it is read.

    Raises:
        DataError: what opens such addresses is not installed, or it is none.
    """
    filesystem, path = _filesystem(url)
    return BucketSource(filesystem, path, url)


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        _quieten(fsspec.get_filesystem_class(fsspec.utils.get_protocol(url)))
        filesystem, root = fsspec.core.url_to_fs(url)
        return filesystem, str(root)
    except ImportError as error:
        # Of an installed package that lacks one of its own, only the cause tells.
        why = f"{error}: {error.__cause__}" if error.__cause__ else str(error)
        raise DataError(
            f"what opens such addresses is not installed ({redacted(why)})",
            where=redacted(url),
            hint="Install that package beside babygpt, with pip",
        ) from None
    except Exception as error:  # of the libraries behind it, each with exceptions of its own
        raise DataError(
            f"not an address that can be opened ({redacted(str(error))[:300]})",
            where=redacted(url),
            hint="Check data.path",
        ) from None


def _quieten(opens: type) -> None:
    """Keeps a library from writing to standard error, unless it was told what to log: what it raises is told."""
    logger = logging.getLogger(opens.__module__.partition(".")[0])
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


def _names(filesystem: Any, root: str, url: str) -> tuple[list[str], str]:
    """The paths of the files behind one, sorted: of itself, of a pattern's matches, of a folder's files."""
    source, left_out = BucketSource(filesystem, root, url), ""
    try:
        with source.plain():
            if re.search(r"[*?\[]", root):
                names = [name for name in filesystem.glob(root) if not filesystem.isdir(name)]
            elif filesystem.isdir(root):
                found = [name for name in filesystem.find(root) if "/." not in name.removeprefix(root)]
                names, left_out = read_in_a_folder(found)
            else:
                return [root], ""
    except BrokenOffError as error:
        raise DataError(f"cannot be reached ({error})", where=source.shown, hint="Try again later") from None
    if not names:
        raise DataError(
            "no file matches, or none of a kind that is read", where=source.shown, hint="Check data.path"
        )
    return sorted(names), left_out


class BucketSource:
    """A file of a file system that fsspec opened.

    Args:
        filesystem: of fsspec.
        path: the file's, in it.
        url: its address.
    """

    def __init__(self, filesystem: Any, path: str, url: str) -> None:
        self.shown = redacted(url) if url.endswith(path) else f"{redacted(url)} ({path})"
        self.path = path
        self._filesystem = filesystem
        self._suffix = ".html" if path.lower().endswith((".html", ".htm")) else ""

    @contextmanager
    def open(self, offset: int, stamp: Stamp | None) -> Iterator[Answer | None]:
        """As `Source.open`."""
        with self.plain():
            self._filesystem.invalidate_cache()
            about = self._filesystem.info(self.path)
        version = " ".join(str(about[name]) for name in _VERSIONS if about.get(name) is not None)
        size = about.get("size")
        found = Stamp(version, "", size if isinstance(size, int) else None)
        if not offset and version and found == stamp:
            yield None
            return
        start = offset if found == stamp and version else 0
        with self.plain():
            stream = self._filesystem.open(self.path, "rb", block_size=_BLOCK)
        try:
            with self.plain():
                stream.seek(start)

            def read(most: int) -> bytes:
                with self.plain():
                    return bytes(stream.read(most))

            yield Answer(start, found, read, self._suffix)
        finally:
            with suppress(Exception):  # of a connection that is broken already
                stream.close()

    def part(self, start: int, size: int) -> bytes:
        """As `Source.part`."""
        with self.plain():
            content = bytes(self._filesystem.cat_file(self.path, start=start, end=start + size))
        if len(content) > size:
            raise no_parts(self.shown)
        if len(content) < size:
            raise BrokenOffError(f"{len(content):,} of {size:,} bytes came")
        return content

    @contextmanager
    def plain(self) -> Iterator[None]:
        """The errors of a dozen libraries as ours."""
        try:
            yield
        except FileNotFoundError:
            raise DataError("no such file", where=self.shown, hint="Check data.path") from None
        except PermissionError as error:
            reason = redacted(_first_line(error))
            raise DataError(
                f"not allowed ({reason})", where=self.shown, hint="Set the credentials its library reads"
            ) from None
        except Exception as error:
            reason = redacted(_first_line(error))
            if "Credentials" in type(error).__name__:  # botocore's and google-auth's, which share no class
                what, hint = f"not allowed ({reason})", "Set the credentials its library reads"
                raise DataError(what, where=self.shown, hint=hint) from None
            if (cause := _cause(error)) is not None:
                late = isinstance(cause, TimeoutError)
                words = "the store does not answer in time" if late else redacted(_first_line(cause))
                raise BrokenOffError(words) from None
            what = f"cannot be fetched ({type(error).__name__}: {reason})"
            raise DataError(what, where=self.shown, hint="Check the address and its credentials") from None


def _cause(error: BaseException | None) -> OSError | None:
    """The system's error that an error is or came from: a library may fail again while it looks at one."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def _first_line(error: BaseException) -> str:
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (words.strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")
