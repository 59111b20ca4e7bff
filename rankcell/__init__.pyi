from rankcell import datasets as datasets
from rankcell import errors as errors
from rankcell import get as get
from rankcell import pl as pl
from rankcell import pp as pp
from rankcell import tl as tl
from rankcell.config import settings as settings
from rankcell.embed import Embedder as Embedder
from rankcell.perturb import Perturber as Perturber
from rankcell.tokens import Tokenizer as Tokenizer
from rankcell.tokens import TokenSet as TokenSet
from rankcell.vocab import Vocabulary as Vocabulary

__version__: str
