"""What gene ids look like: the system that they are of, and the species that they point to."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

PLAIN, VERSIONED = "Ensembl gene ids", "Ensembl gene ids with a version (as in .12)"
TRANSCRIPTS, SYMBOLS = "Ensembl transcript ids", "symbols"
NUMBERS, NOTHING = "numbers (Entrez ids, or row numbers)", "empty names"

_ENSEMBL = re.compile(r"ENS([A-Z]{3,})?([GT])[0-9]{6,}(\.[0-9]+)?", re.IGNORECASE)
_BUILDS = (
    r"GRC[a-z]\d+[a-z]?|hg\d\d|mm\d{1,2}|rn\d|mRatBN7|Rnor_6|danRer\d+|dm\d|ce1\d|canFam\d|susScr\d+|Sscrofa\d+|bosTau\d|galGal\d|rheMac\d+"
    r"|Mmul_\d+|panTro\d|T2T-CHM13|chm13|human|mouse|rat|hsapiens|mmusculus|homo_sapiens|mus_musculus"
)
_PARTS = r"\d{4}-[A-Z]|p?\d+|v\d+|pre[-_]?mrna|mrna|ensembl\d*"
GENOME = re.compile(rf"((?:{_BUILDS})(?:[._-](?:{_PARTS})(?=[._:-]))*)[_:.-]+(?=.)", re.IGNORECASE)
"""A genome in front of a gene's name: its name, then what sets it apart."""
_OTHER = {"FBgn": "fruit fly", "WBGene": "roundworm"}
_SPECIES = {
    **{"": "human", "MUS": "mouse", "RNO": "rat", "DAR": "zebrafish", "MMU": "macaque", "MFA": "macaque", "PTR": "chimpanzee"},
    **{"SSC": "pig", "BTA": "cow", "GAL": "chicken", "CAF": "dog", "OCU": "rabbit", "OAR": "sheep", "XET": "frog", "CJA": "marmoset"},
}
_LATIN = {"homo sapiens": "human", "mus musculus": "mouse", "rattus norvegicus": "rat", "danio rerio": "zebrafish"}
_ENOUGH = 0.05  # of the ids: what is rarer is not named
_CAPITAL = re.compile(r"[A-Z][a-z0-9.-]*[a-z][a-z0-9.-]*")
_LOCUS = re.compile(r"C[0-9XY]+orf[0-9]+")  # C1orf112: the lower-case letters of human symbols


@dataclass(frozen=True)
class IdFacts:
    """Id systems, species and letter case of a list of gene ids.

    systems
        Name of an id system -> how many of the ids are of it, the most frequent first.
    species
        Species -> how many Ensembl ids are of it.
    case
        How most symbols are written: "upper" (CD3D), "capital" (Cd3d), "lower" (cd3d), or "" when there are too few.
    genome
        What stands in front of most names, such as "GRCh38_", or "".
    """

    systems: dict[str, int]
    species: dict[str, int]
    case: str
    genome: str

    @property
    def system(self) -> str:
        """The most frequent id system, "" when there are no ids."""
        return next(iter(self.systems), "")

    def describe(self) -> str:
        """The systems in words, with their shares when there are several."""
        total = sum(self.systems.values())
        shown = {k: n for k, n in self.systems.items() if n >= _ENOUGH * total} or self.systems
        if len(shown) < 2:
            return next(iter(shown), "none") + self._written()
        return "a mixture: " + ", ".join(f"{k} ({n / total:.0%})" for k, n in shown.items()) + self._written()

    def _written(self) -> str:
        if self.systems.get(SYMBOLS, 0) < 0.5 * sum(self.systems.values()):
            return ""
        return {"capital": ", written as in mouse (Gapdh)", "lower": ", in lower case (gapdh)"}.get(self.case, "")

    def likely_species(self) -> list[str]:
        """Candidate species: by Ensembl ids where half of the ids are such, else by the letter case of symbols; [] when neither tells."""
        total, ensembl = sum(self.systems.values()), sum(self.species.values())
        if ensembl and ensembl >= 0.5 * total:
            return [k for k, n in self.species.items() if n >= _ENOUGH * ensembl]
        return {"upper": ["human"], "capital": ["mouse"]}.get(self.case, [])


def id_facts(ids: Iterable[str]) -> IdFacts:
    """Classify gene ids by their shape."""
    systems: Counter[str] = Counter()
    species: Counter[str] = Counter()
    cases: Counter[str] = Counter()
    genomes: Counter[str] = Counter()
    for name in ids:
        name = name.strip()
        if front := GENOME.match(name):
            genomes[front[0]] += 1
            name = name[front.end() :]
        system, of, case = _classify(name)
        systems[system] += 1
        species.update(of)
        cases.update(case)
    most, n = cases.most_common(1)[0] if cases else ("", 0)
    front, n_front = genomes.most_common(1)[0] if genomes else ("", 0)
    return IdFacts(
        systems=dict(systems.most_common()),
        species=dict(species.most_common()),
        case=most if n > 0.6 * systems[SYMBOLS] else "",
        genome=front if n_front > 0.5 * systems.total() else "",
    )


def is_ensembl_gene(name: str) -> bool:
    """Whether a name is the Ensembl id of a gene, of any species, with or without a version."""
    match = _ENSEMBL.fullmatch(name.strip())
    return match is not None and match[2] in "Gg"


def _classify(name: str) -> tuple[str, list[str], list[str]]:
    """Classify one id: (system, species of an Ensembl id, letter case of a symbol)."""
    if match := _ENSEMBL.fullmatch(name):
        front = (match[1] or "").upper()
        system = TRANSCRIPTS if match[2] in "tT" else VERSIONED if match[3] else PLAIN
        return system, [_SPECIES.get(front, f"ENS{front}")], []
    if other := next((s for k, s in _OTHER.items() if re.fullmatch(rf"{k}[0-9]{{6,}}", name)), None):
        return PLAIN, [other], []
    if not name or name.lower() in ("nan", "none", "na"):
        return NOTHING, [], []
    if name.isdigit():
        return NUMBERS, [], []
    return SYMBOLS, [], _case(name)


def _case(name: str) -> list[str]:
    if name.upper() == name or _LOCUS.fullmatch(name):
        return ["upper"]
    if name.lower() == name:
        return ["lower"]
    return ["capital"] if _CAPITAL.fullmatch(name) else ["other"]


def vocabulary_species(species: str, genes: Iterable[str]) -> str:
    """The species of a vocabulary: as declared, else by its Ensembl ids; "" when neither tells."""
    if species:
        return _LATIN.get(species.lower().replace("_", " "), species.lower())
    facts = id_facts(genes)
    likely = facts.likely_species() if facts.species else []
    return likely[0] if len(likely) == 1 else ""
