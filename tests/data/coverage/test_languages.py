"""Languages by script and stop words: what is known is right, what is not is said."""

from __future__ import annotations

import pytest

from rewardsmith.data.coverage.languages import NO_WORDS, STOP_WORDS, content_words, is_recognised, language_of

SENTENCES = {
    "English": "What is the best way to learn the piano?",
    "German": "Wie kann ich einen Kuchen ohne Eier backen?",
    "French": "Comment est-ce que je peux apprendre le piano avec mon fils ?",
    "Spanish": "¿Cuál es la mejor manera de aprender el piano?",
    "Portuguese": "Qual é a melhor maneira de aprender piano em casa? Você pode explicar?",
    "Italian": "Qual è il modo migliore per imparare il pianoforte?",
    "Dutch": "Hoe kan ik het beste een taart bakken zonder eieren?",
    "Swedish": "Hur kan jag baka en kaka och vad är det jag ska ha för den?",
    "Polish": "Jak mogę się nauczyć grać na pianinie w domu?",
    "Turkish": "Bir pasta nasıl yapılır ve bunun için ne gerekir?",
    "Indonesian or Malay": "Bagaimana cara membuat kue yang enak dengan bahan ini?",
    "Vietnamese": "Làm thế nào để tôi học một bài hát với các bạn?",
    "Russian": "Как испечь пирог без яиц, если они кончились?",
    "Ukrainian": "Як спекти пиріг, якщо немає яєць?",
    "Chinese": "怎样学习弹钢琴？",
    "Japanese": "ピアノを弾くにはどうすればいいですか？",
    "Korean": "피아노를 어떻게 배우나요?",
    "Arabic": "كيف أتعلم العزف على البيانو؟",
    "Persian": "چگونه پیانو یاد بگیرم؟",
    "Hindi": "पियानो कैसे सीखा जाता है?",
    "Thai": "ฉันจะเรียนเปียโนได้อย่างไร",
    "Greek": "Πώς μαθαίνω πιάνο;",
    "Hebrew": "איך לומדים פסנתר?",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_is_in_its_language(language: str) -> None:
    assert language_of(SENTENCES[language]) == language
    assert is_recognised(language)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Photosynthesis", "Latin script, not recognised"),
        ("ሰላም ለዓለም", "Ethiopic script, not recognised"),
        ("12 + 7 =", NO_WORDS),
        ("", NO_WORDS),
    ],
)
def test_what_is_not_known_is_said(text: str, said: str) -> None:
    assert language_of(text) == said
    assert not is_recognised(said)


def test_content_words_leave_out_the_stop_words_of_their_own_language() -> None:
    assert content_words("What is the capital of France?") == ["capital", "france"]
    assert "die" in content_words("Why do the plants die?")  # a stop word of German only
    assert content_words("学习钢琴") == ["学习", "习钢", "钢琴"]


def test_every_language_has_words_of_its_own() -> None:
    for name, words in STOP_WORDS.items():
        others = frozenset().union(*(stops for other, stops in STOP_WORDS.items() if other != name))
        assert len(words - others) >= 5, name
