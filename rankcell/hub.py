"""Downloads: what is fetched is known beforehand by its size and sha256, and nothing else is ever let through.

Stands on huggingface_hub, which keeps one copy of each file in its cache and goes on with a download that broke off.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from rankcell.errors import InputError, RankcellError
from rankcell.store import writing

_CHUNK = 2**20


def fetch_file(
    repo: str, path: str, *, size: int, sha256: str, cache: str | os.PathLike | None = None, otherwise: str = "try again where there is one"
) -> Path:
    """The file `path` of the Hugging Face repository `repo`, downloaded unless the cache has it, and checked either way.

    cache
        The folder that keeps the downloads (None: that of huggingface_hub).
    otherwise
        What the user can do without a network, for the message.

    Raises InputError when it cannot be fetched, or its size or sha256 is another than expected.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    held = try_to_load_from_cache(repo, path, cache_dir=cache)
    if isinstance(held, str):
        return check_file(held, size=size, sha256=sha256)
    try:
        with _quiet(), writing(Path(cache) if cache else "the download cache"):
            _require_network(repo, path)
            held = hf_hub_download(repo, path, cache_dir=cache)
    except RankcellError:
        raise
    except Exception as e:  # it raises errors of its own, of its http library and of the system, without a common root
        raise InputError(
            f"{path} of the Hugging Face repository {repo} could not be fetched ({_reason(e)}). Without a network: {otherwise}"
        ) from e
    return check_file(held, size=size, sha256=sha256)


def _require_network(repo: str, path: str) -> None:
    """Ask for the file once. Raises what the library does when nobody answers, which hf_hub_download would do after six tries.

    It waits for HF_HUB_ETAG_TIMEOUT seconds (10). Any answer will do: what to make of it, hf_hub_download knows better.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError

    with contextlib.suppress(HfHubHTTPError, FileMetadataError):
        get_hf_file_metadata(hf_hub_url(repo, path))


def check_file(path: str | os.PathLike, *, size: int, sha256: str) -> Path:
    """`path` when it is the file that was meant. InputError when its size or sha256 is another."""
    path = Path(path)
    try:
        found = path.stat().st_size
        digest = _sha256(path) if found == size else ""
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror}") from e
    if found != size:
        raise InputError(f"{path} has {found:,} bytes, not the {size:,} expected: {_way_out(path)}")
    if digest != sha256:
        raise InputError(f"{path} has sha256 {digest}, not the {sha256} expected: {_way_out(path)}")
    return path


def _way_out(path: Path) -> str:
    """A cached file is a link to its content; the next download only starts when the content is gone."""
    real = path.resolve()
    also = f" and {real}" if real != path.absolute() else ""
    return f"it is damaged or was changed at its source; delete {path}{also} and fetch it again"


def _sha256(path: Path) -> str:
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
