"""Every word and sentence is there in both languages, with the same values in it."""

from string import Formatter

from xtuner.language import LANGUAGES
from xtuner.survey.wording import SENTENCES, WORDS


def test_both_languages_say_the_same():
    assert all(
        len(words) == len(LANGUAGES) and all(words) for words in [*WORDS.values(), *SENTENCES.values()]
    )
    for english, chinese in SENTENCES.values():
        names = [{name for _, name, _, _ in Formatter().parse(text) if name} for text in (english, chinese)]
        assert names[0] == names[1]
