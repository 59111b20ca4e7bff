"""What every long job needs, once: atomic writes, locks, fingerprints, manifests and resumable shards. A leaf room."""

from rankcell.store.atomic import atomic_path, require_apart, require_new, writing
from rankcell.store.jsonio import content_hash, read_json, write_json
from rankcell.store.lock import LOCK, locked
from rankcell.store.run import ShardedRun, check_result_folder, result_folder
from rankcell.store.textio import read_lines, read_text

__all__ = [
    "LOCK",
    "ShardedRun",
    "atomic_path",
    "check_result_folder",
    "content_hash",
    "locked",
    "read_json",
    "read_lines",
    "read_text",
    "require_apart",
    "require_new",
    "result_folder",
    "write_json",
    "writing",
]
