"""What every long job needs, once: atomic writes, locks, fingerprints, manifests and resumable shards. A leaf room."""

from rankcell.store.atomic import atomic_path, publish, remove_own, require_apart, require_new, require_unshared, writing
from rankcell.store.jsonio import content_hash, read_json, read_sealed_json, write_json, write_sealed_json
from rankcell.store.lock import LOCK, locked
from rankcell.store.run import ShardedRun, check_result_folder, result_folder
from rankcell.store.textio import read_lines, read_text
from rankcell.store.whole import damage, file_facts, seal, seal_damage

__all__ = [
    "LOCK",
    "ShardedRun",
    "atomic_path",
    "check_result_folder",
    "content_hash",
    "damage",
    "file_facts",
    "locked",
    "publish",
    "read_json",
    "read_lines",
    "read_sealed_json",
    "read_text",
    "remove_own",
    "require_apart",
    "require_new",
    "require_unshared",
    "result_folder",
    "seal",
    "seal_damage",
    "write_json",
    "write_sealed_json",
    "writing",
]
