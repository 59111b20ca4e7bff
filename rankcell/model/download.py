"""A checkpoint of a Hugging Face repository: its config, weights and vocabulary brought into the cache of huggingface_hub."""

import os
from pathlib import Path

from rankcell.errors import InputError, ModelError
from rankcell.hub import HubName, fetch_file, find_file
from rankcell.model.bert_config import CONFIG
from rankcell.model.seal import SEAL
from rankcell.model.weight_files import INDEX, PICKLED, WEIGHT_FILES, WEIGHTS, names_in_index
from rankcell.vocab.folder import FILES
from rankcell.vocab.recipes import PublishedModel, published_models
from rankcell.wording import option

VOCABULARY = "vocabulary"


def download_checkpoint(name: HubName) -> Path:
    """The folder of the cache that holds the checkpoint; what is there already is not asked for again.

    All files are of one commit: that of the cached config, or the newest of the revision. Weights of published models are
    checked by size and sha256, unless a revision other than main is asked for. Where nobody answers, a cached copy will do.

    Raises InputError when a part can neither be fetched nor found in the cache, ModelError when the repository lacks it.
    """
    return _Download(name).run()


class _Download:
    """One checkpoint on its way. After the first failure only the cache is asked."""

    def __init__(self, name: HubName):
        self.name = name
        self.commit = name.revision
        self.failed: InputError | None = None

    def run(self) -> Path:
        config = self._find(CONFIG)
        if config is None and self.failed:
            raise InputError(f"there is no folder '{self.name.place}' here, and {self.failed}") from self.failed
        if config is None:
            raise ModelError(
                f"the Hugging Face repository {self.name.repo} has no {self.name.path(CONFIG)}: name the folder of the model in it, "
                "as in ctheodoris/Geneformer/Geneformer-V2-104M"
            )
        self.commit = config.parents[self.name.path(CONFIG).count("/")].name
        self._bring_vocabulary()
        self._find(SEAL)
        self._bring_weights()
        return config.parent

    def _bring_vocabulary(self) -> None:
        head, genes, aliases = (f"{VOCABULARY}/{file}" for file in FILES)
        if self._find(head):
            self._need(genes)
            self._find(aliases)

    def _bring_weights(self) -> None:
        published = self._published()
        if published and self.failed and not self._find(WEIGHTS):
            raise self.failed
        if published:
            fetch_file(
                self.name.repo,
                published.path,
                size=published.size,
                sha256=published.sha256,
                revision=self.commit,
                otherwise=self._by_hand(),
            )
            return
        for file in WEIGHT_FILES:
            path = self._find(file)
            if path and file.endswith(INDEX):
                for part in names_in_index(path):
                    self._need(part)
            if path:
                return
        raise self.failed or ModelError(
            f"the Hugging Face repository {self.name.repo} has neither {self.name.path(WEIGHTS)} nor {self.name.path(PICKLED)}"
        )

    def _published(self) -> PublishedModel | None:
        if self.name.revision not in (None, "main"):
            return None
        here = self.name.repo, self.name.path(WEIGHTS)
        return next((m for m in published_models() if (m.repository, m.path) == here), None)

    def _find(self, file: str) -> Path | None:
        """The file, or None when the repository lacks it, or when it is not cached and nobody answers (then `failed` says why)."""
        try:
            return find_file(self.name.repo, self.name.path(file), network=self.failed is None, revision=self.commit, otherwise=self._by_hand())
        except InputError as e:
            self.failed = e
            return None

    def _need(self, file: str) -> Path:
        path = self._find(file)
        if path is None:
            raise self.failed or ModelError(f"the Hugging Face repository {self.name.repo} has no {self.name.path(file)}, which it should")
        return path

    def _by_hand(self) -> str:
        return (
            f"download {self.name.path(CONFIG)} and {os.path.basename(WEIGHTS)} beside it (and {VOCABULARY}/ if it is there) from "
            f"https://huggingface.co/{self.name.repo} elsewhere, bring them here in one FOLDER, and "
            f"give it as {option('model', placeholder='FOLDER')}"
        )
