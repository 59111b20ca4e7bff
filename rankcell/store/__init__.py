"""What every long job needs, once: atomic writes, locks, fingerprints, manifests and resumable shards. A leaf room."""

from rankcell.store.atomic import atomic_path, publish, writing
from rankcell.store.jsonio import content_hash, read_json, read_sealed_json, write_json, write_sealed_json
from rankcell.store.lock import LOCK, locked
from rankcell.store.own import Own, inside, remove_file, remove_folder, remove_own, require_apart, require_new, require_unshared
from rankcell.store.sharded_run import RUN_FILES, ShardedRun, check_result_folder, remove_run, result_folder
from rankcell.store.textio import read_lines, read_text
from rankcell.store.whole import damage, file_facts, seal, seal_damage

__all__ = [
    "LOCK",
    "RUN_FILES",
    "Own",
    "ShardedRun",
    "atomic_path",
    "check_result_folder",
    "content_hash",
    "damage",
    "file_facts",
    "inside",
    "locked",
    "publish",
    "read_json",
    "read_lines",
    "read_sealed_json",
    "read_text",
    "remove_file",
    "remove_folder",
    "remove_own",
    "remove_run",
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
