"""The language check on short maths answers in seven languages, on what has no language, and on mixtures."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from merge3_plugin.errors import ConfigError
from merge3_plugin.extract.language import check_language, speaks

# The same four answers, the shortest as short as answers with a sentence get.
ANSWERS = {
    "en": [
        "The answer is 18.",
        "Two apples and three more make 5 apples.",
        "Therefore, 20 cups of feed are needed for the last meal.",
        "Janet sells 16 - 3 - 4 = 9 eggs a day. She makes 9 * 2 = $18 every day at the market.",
    ],
    "de": [
        "Die Antwort ist 18.",
        "Zwei Äpfel und drei weitere ergeben 5 Äpfel.",
        "Daher werden für die letzte Mahlzeit 20 Tassen Futter benötigt.",
        "Janet verkauft 16 - 3 - 4 = 9 Eier pro Tag. Sie verdient 9 * 2 = 18 Dollar pro Tag auf dem Markt.",
    ],
    "it": [
        "La risposta è 18.",
        "Due mele e altre tre fanno 5 mele.",
        "Pertanto, servono 20 tazze di mangime per l'ultimo pasto.",
        "Janet vende 16 - 3 - 4 = 9 uova al giorno. Guadagna 9 * 2 = 18 dollari al giorno al mercato.",
    ],
    "nl": [
        "Het antwoord is 18.",
        "Twee appels en nog drie zijn samen 5 appels.",
        "Daarom zijn er 20 kopjes voer nodig voor de laatste maaltijd.",
        "Janet verkoopt 16 - 3 - 4 = 9 eieren per dag. Ze verdient 9 * 2 = 18 dollar per dag op de markt.",
    ],
    "fr": [
        "La réponse est 18.",
        "Deux pommes et trois autres font 5 pommes.",
        "Par conséquent, il faut 20 tasses de nourriture pour le dernier repas.",
        "Janet vend 16 - 3 - 4 = 9 œufs par jour. Elle gagne 9 * 2 = 18 dollars par jour au marché.",
    ],
    "ja": [
        "答えは18です。",
        "りんご2個とあと3個で5個になります。",
        "したがって、最後の食事には20カップの餌が必要です。",
        "ジャネットは1日に16 - 3 - 4 = 9個の卵を売ります。市場で毎日9 * 2 = 18ドルを稼ぎます。",
    ],
    "zh": [
        "所以答案是18。",
        "两个苹果再加三个等于5个苹果。",
        "因此，最后一餐需要20杯饲料。",
        "珍妮特每天卖16 - 3 - 4 = 9个鸡蛋。她每天在市场上赚9 * 2 = 18美元。",
    ],
}
PAIRS = list(itertools.permutations(ANSWERS, 2))


@pytest.mark.parametrize("language", ANSWERS)
def test_an_answer_in_the_asked_language_counts(language):
    assert [speaks(answer, language) for answer in ANSWERS[language]] == [True] * 4


@pytest.mark.parametrize(("asked", "spoken"), PAIRS)
def test_an_answer_in_another_language_does_not(asked, spoken):
    verdicts = [speaks(answer, asked) for answer in ANSWERS[spoken]]
    assert True not in verdicts and verdicts[1:] == [False] * 3


@pytest.mark.parametrize(
    "text",
    ["", "18", "-3.5", "$18", "18 km", "x = 5", "16 - 3 - 4 = 9", "#### 18", r"\boxed{18}", r"$\frac{36}{2} = 18$",
     "(B)", "NaCl", "Janet", "Emma 4, Liam 6", "答え：18", "OK",
     "```python\nprint(6 * 3)  # the answer to the question\n```",
     "https://example.org/the-answer-to-the-question"],
)  # fmt: skip
@pytest.mark.parametrize("language", ["ja", "de", "en"])
def test_numbers_formulas_code_and_names_have_no_language(text, language):
    assert speaks(text, language) is None


@pytest.mark.parametrize(
    ("text", "language"),
    [("18 Euro pro Tag", "de"), ("oplossing is 18", "nl"), ("answer is 18 eggs", "en"), ("毎日卵十六個", "ja"),
     ("il reste 18 oeufs", "fr")],
)  # fmt: skip
def test_a_short_answer_that_may_be_in_the_asked_language_is_not_refused(text, language):
    assert speaks(text, language) is None


@pytest.mark.parametrize(("most", "few"), PAIRS)
def test_most_of_the_prose_decides(most, few):
    for text in (" ".join([*ANSWERS[most], ANSWERS[few][0]]), " ".join([ANSWERS[few][0], *ANSWERS[most]])):
        assert speaks(text, most) is True and speaks(text, few) is False


def test_formulas_and_code_do_not_hide_the_language_of_the_prose():
    text = (
        "```python\ntotal = price * number_of_apples\nreturn total\n```\nしたがって $x_1 = 6 \\cdot 3$、答えは18です。"
    )
    assert speaks(text, "ja") is True and speaks(text, "en") is False
    assert speaks("She earns $9 a day and $2 more on Sundays, so $11.", "en") is True


def test_varieties_of_one_language_are_that_language():
    assert speaks("Odgovor je 18, jer je svaki dan prodala devet jaja na tržištu.", "sr") is True
    assert speaks("Odgovor je 18, jer je svaki dan prodala devet jaja na tržištu.", "hr") is True
    assert speaks("Svaret er 18, fordi hun selger ni egg hver dag på markedet.", "nn") is True


def test_an_unknown_language_names_the_nearest():
    check_language("t", "ja")
    with pytest.raises(ConfigError, match="task 't': expected a language as its ISO 639 code .*got 'jap'"):
        check_language("t", "jap")


def test_the_verdict_depends_on_the_text_alone_and_takes_no_network():
    program = (
        "import socket\n"
        "def refuse(*_, **__): raise OSError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from merge3_plugin.extract.language import speaks\n"
        "texts = ['The answer is 18.', '答えは18です。', 'La risposta è 18.', '18']\n"
        "print([speaks(t, 'ja') for t in texts] == [speaks(t, 'ja') for t in texts[::-1]][::-1],"
        " [speaks(t, 'ja') for t in texts])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert run.stdout.strip() == "True [False, True, False, None]", run.stderr
