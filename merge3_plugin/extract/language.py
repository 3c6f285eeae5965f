"""The language check of generated answers: right counts only in the language that was asked for (MERGE3, Mergenetic).

The identifier is py3langid, a naive Bayes model over byte n-grams of 140 languages that comes inside its package. It
reads no network, and the same text gives the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from merge3_plugin.errors import ConfigError, nearest

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

# Prose of fewer bytes (a CJK character has three) is a name, a unit or a word that several languages share.
SHORTEST = 10
# Text is foreign where the asked language is less likely than this, relative to the likeliest one.
FOREIGN = 0.05

# What the identifier tells apart and one language covers (ISO 639-3's macrolanguages).
_VARIETIES = (
    {"ar", "ary", "arz"},
    {"bs", "hr", "sr"},
    {"id", "ms"},
    {"ku", "sdh"},
    {"nn", "no"},
    {"uz", "uzs"},
    {"wuu", "yue", "zh"},
)

_NO_PROSE = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`"  # code
    r"|\$\$.*?\$\$|\$[^$\n]*[\\^_=+*/][^$\n]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\[A-Za-z]+"  # LaTeX; "$5 and $6" is prose
    r"|https?://\S+",
    re.DOTALL,
)
_WORDS = re.compile(r"[^\W\d_]+")
_CJK = "\u2e80"  # from here on a single character is a word


def check_language(name: str, language: str) -> None:
    """Raise ConfigError unless ``language`` is an ISO 639 code that the identifier knows; ``name`` is the task's."""
    if language not in (known := _identifier().labels):
        raise ConfigError(
            f"task {name!r}: expected a language as its ISO 639 code (ja, de ...), got {language!r}"
            f"{nearest(str(language), known)}"
        )


def speaks(text: str, language: str) -> bool | None:
    """Whether the prose of ``text`` is in ``language`` (ISO 639 code); None where that cannot be told.

    Numbers, formulas, code and single letters are no prose. It cannot be told of prose of fewer than ``SHORTEST``
    bytes, nor where another language is likelier but the asked one not out of the question: such an answer is
    accepted. In mixed text the language of most of the prose decides.
    """
    prose = _prose(text)
    if len(prose.encode(errors="replace")) < SHORTEST:
        return None
    likelihood = dict(_identifier().rank(prose))
    own = next((varieties for varieties in _VARIETIES if language in varieties), {language})
    asked = sum(likelihood[variety] for variety in own)
    other = max(share for name, share in likelihood.items() if name not in own)
    return True if asked >= other else None if asked >= FOREIGN * other else False


def foreign(responses: Sequence[str], language: str) -> bool:
    """Whether an answer, one or several responses to one request, is in another language than the asked one."""
    return speaks("\n".join(responses), language) is False


def _prose(text: str) -> str:
    words = _WORDS.findall(_NO_PROSE.sub(" ", text))
    return " ".join(word for word in words if len(word) > 1 or word >= _CJK)


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
