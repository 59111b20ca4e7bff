"""Downloads: a file that is known beforehand by its size and sha256 is let through only as that one; of others, huggingface_hub
checks the size. Which text names a place there is said here too.

Stands on huggingface_hub, which keeps one copy of each file in its cache and goes on with a download that broke off.
"""

import contextlib
import dataclasses
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from rankcell.errors import InputError, RankcellError
from rankcell.store import writing

_CHUNK = 2**20
_NAME = re.compile(r"(?P<path>\w[\w.-]*(?:/\w[\w.-]*)+)(?:@(?P<revision>\w[\w./-]*))?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class HubName:
    """A folder of a Hugging Face repository: `owner/repo`, the folder in it ("" for its top), a revision (None: main)."""

    repo: str
    folder: str
    revision: str | None

    @property
    def name(self) -> str:
        """The last part of what was typed, the revision left out."""
        return (self.folder or self.repo).rpartition("/")[2]

    def path(self, file: str) -> str:
        """The path of `file` of this folder in the repository."""
        return f"{self.folder}/{file}" if self.folder else file

    @property
    def place(self) -> str:
        return f"{self.repo}/{self.folder}" if self.folder else self.repo


def user_folder() -> Path | None:
    """The user's cache folder of rankcell: `RANKCELL_CACHE`, else `rankcell` in the user's cache folder; None without a home."""
    cache_folder = os.environ.get("RANKCELL_CACHE")
    if cache_folder:
        return Path(cache_folder)
    cache = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    try:
        return Path(cache or Path.home() / ".cache") / "rankcell"
    except RuntimeError:  # nobody's home
        return None


def parse_name(text: str) -> HubName | None:
    """Parse `owner/repo`, `owner/repo/sub/folder` or either with `@revision`; None for any other text."""
    match = _NAME.fullmatch(text)
    if not match or ".." in text or "." in match["path"].split("/"):
        return None
    owner, repo, *folder = match["path"].split("/")
    return HubName(f"{owner}/{repo}", "/".join(folder), match["revision"])


def fetch_file(
    repo: str,
    path: str,
    *,
    size: int,
    sha256: str,
    revision: str | None = None,
    cache: str | os.PathLike | None = None,
    otherwise: str = "try again where there is one",
) -> Path:
    """The file `path` of the Hugging Face repository `repo`, downloaded unless the cache has it, and checked either way.

    revision
        A commit, branch or tag (None: main).
    cache
        The folder that keeps the downloads (None: that of huggingface_hub).
    otherwise
        What the user can do without a network, for the message.

    Raises InputError when it cannot be fetched, or its size or sha256 is another than expected.
    """
    cached = _cached(repo, path, revision, cache, otherwise)
    if not isinstance(cached, str):
        with _explained(repo, path, otherwise):
            cached = _download(repo, path, revision, cache)
    return check_file(cached, size=size, sha256=sha256)


def find_file(
    repo: str, path: str, *, revision: str | None = None, network: bool = True, otherwise: str = "try again where there is one"
) -> Path | None:
    """The file `path` of `repo` as huggingface_hub brings it, or None when the repository has no such file.

    What the cache holds, and what it knows not to exist, is not asked for again.

    network
        Whether to ask for what the cache does not know; if not, it counts as not there.

    Raises InputError when it cannot be fetched.
    """
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    cached = _cached(repo, path, revision, None, otherwise)
    if cached is not None or not network:
        return Path(cached) if isinstance(cached, str) else None
    with _explained(repo, path, otherwise):
        try:
            return Path(_download(repo, path, revision, None))
        except LocalEntryNotFoundError:  # an EntryNotFoundError too, but one that only says that nobody could be asked
            raise
        except EntryNotFoundError:
            return None


def _cached(repo: str, path: str, revision: str | None, cache: str | os.PathLike | None, otherwise: str) -> object:
    """The file's path in the cache; None when it is not there; something else when it is known that the repository lacks it."""
    from huggingface_hub import try_to_load_from_cache

    with _explained(repo, path, otherwise):
        return try_to_load_from_cache(repo, path, cache_dir=cache, **_at(revision))


def _download(repo: str, path: str, revision: str | None, cache: str | os.PathLike | None) -> str:
    from huggingface_hub import hf_hub_download

    with _quiet(), writing(Path(cache) if cache else "the download cache"):
        _require_network(repo, path, revision)
        return hf_hub_download(repo, path, cache_dir=cache, **_at(revision))


def _at(revision: str | None) -> dict[str, str]:
    return {} if revision is None else {"revision": revision}


@contextlib.contextmanager
def _explained(repo: str, path: str, otherwise: str) -> Iterator[None]:
    """One line for whatever goes wrong between here and the hub."""
    try:
        yield
    except RankcellError:
        raise
    except Exception as e:  # it raises errors of its own, of its http library and of the system, without a common root
        raise InputError(
            f"{path} of the Hugging Face repository {repo} could not be fetched ({_reason(e)}). Without a network: {otherwise}"
        ) from e


def _require_network(repo: str, path: str, revision: str | None) -> None:
    """Ask for the file once. Raises what the library does when nobody answers, which hf_hub_download would do after six tries.

    It waits for HF_HUB_ETAG_TIMEOUT seconds (10). Any answer will do: what to make of it, hf_hub_download knows better.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError

    with contextlib.suppress(HfHubHTTPError, FileMetadataError):
        get_hf_file_metadata(hf_hub_url(repo, path, **_at(revision)))


def check_file(path: str | os.PathLike, *, size: int, sha256: str) -> Path:
    """Check a file's size and sha256, and return its path. InputError when either is another."""
    path = Path(path)
    try:
        n_bytes = path.stat().st_size
        digest = sha256_of(path) if n_bytes == size else ""
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror}") from e
    if n_bytes != size:
        raise InputError(f"{path} has {n_bytes:,} bytes, not the {size:,} expected: {_remedy(path)}")
    if digest != sha256:
        raise InputError(f"{path} has sha256 {digest}, not the {sha256} expected: {_remedy(path)}")
    return path


def _remedy(path: Path) -> str:
    """Advice for a damaged file. A cached file is a link to its content: the next download only starts when the content is gone."""
    real = path.resolve()
    also = f" and {real}" if real != path.absolute() else ""
    return f"it is damaged or was changed at its source; delete {path}{also} and fetch it again"


def sha256_of(path: Path) -> str:
    """The sha256 of the file's content, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _reason(e: Exception) -> str:
    """The first line of an error that says something: the one below it, where huggingface_hub only says that it failed."""
    cause = e.__cause__ or e.__context__
    shown = cause if cause is not None and str(cause) and type(e).__name__ == "LocalEntryNotFoundError" else e
    text = str(shown).strip().splitlines()
    return f"{type(shown).__name__}: {text[0][:200]}" if text else type(shown).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub's remarks on each retry off the terminal: the error says it once."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
