"""Which language a text is in, by its script and its commonest words. Only what is known is said.

A script that one language uses settles it (Greek, Hangul, Thai). Scripts of several are told apart by letters that
only one of them has, and Latin ones by stop words: the language with the most hits, if it has more than any other.
What is left is named by its script, "Latin script, not recognised", and never guessed. Meant for counting slices: a
text of two words in Spanish and Portuguese alike stays unrecognised.
"""

from __future__ import annotations

import re
from functools import lru_cache

LOOKED_AT = 1000  # characters
NO_WORDS = "no words"
UNKNOWN = "not recognised"
ENGLISH = "English"

STOP_WORDS: dict[str, frozenset[str]] = {
    name: frozenset(words.split())
    for name, words in {
        "English": "a about after all also am an and any are as at be because been before being but by can could "
        "did do does doing don't down for from get give had has have he her here him his how i i'm if "
        "in into is it its it's just know like make me more most my no not now of on one only or other "
        "our out over please she should so some tell than that that's the their them then there these "
        "they this those to too up us use very want was way we were what what's when where which while "
        "who why will with would write you your explain list name between using used ok yes let many "
        "much each such own same both few nor off again further once during until through",
        "German": "der die das und ist nicht ein eine einen einem einer ich du er sie es wir ihr mit für auf von "
        "zu den dem des im auch wie was warum wenn kann können wird werden sind war haben hat mir mich "
        "bitte oder aber als an aus bei nach nur noch so über um sich zum zur schreibe gib welche wo "
        "wer",
        "French": "le la les un une des et est ne pas je tu il elle nous vous ils de du en que qui dans pour sur "
        "avec au aux ce cette ces mon ma mes son sa ses comment pourquoi quel quelle quels quoi où sont "
        "plus par mais ou donc être avoir peux pouvez écris écrire moi me se c'est l'on d'un d'une "
        "qu'il",
        "Spanish": "el la los las un una unos unas y es no yo tú él ella de del en que qué quién para por con como "
        "cómo su sus mi mis se lo le al más pero o porque cuando cuál dónde ser está son hay tiene "
        "puedo puedes escribe sobre entre sin también muy este esta esto",
        "Portuguese": "o a os as um uma uns umas e é não eu você ele ela de do da dos das em no na nos nas que para "
        "por com como seu sua meu minha se ao mais mas ou porque quando qual onde ser está são tem pode "
        "escreva sobre entre sem também muito este esta isto isso",
        "Italian": "il lo la i gli le un uno una e è non io tu lui lei di del della dei delle in che chi per con "
        "come suo sua mio mia si al più ma o perché quando quale dove essere sono ho ha può puoi scrivi "
        "su tra senza anche molto questo questa cosa nel nella",
        "Dutch": "de het een en is niet ik jij hij zij wij van in op te dat die voor met als om aan bij ook maar "
        "er naar hoe wat waarom wie waar wanneer kan kunnen wordt worden zijn was heb heeft mijn je "
        "jouw schrijf geef over uit nog dan",
        "Swedish": "och att det är en ett jag du han hon vi inte på som för med av den till om har hur vad varför "
        "kan var när från så men eller mig min skriv ska skulle",
        "Danish or Norwegian": "og at det er en et jeg du han hun vi ikke på som for med af av den til om "
        "har hvordan hva hvad "
        "hvorfor kan var når fra så men eller meg mig min skriv skal",
        "Finnish": "ja on ei se että en mikä mitä miten miksi kuinka voi ovat oli hän minä sinä me te he mutta tai "
        "kun jos niin kuin myös kirjoita olen olet sen tämä",
        "Polish": "i w nie na się z do jest to że jak co dlaczego czy o ale po za od dla są był być ja ty mnie mi "
        "może napisz który która które przez tak",
        "Czech": "a je se na že v to s z do ne jak co proč jsem jsou byl být pro ale nebo o po který která které "
        "může napiš mi mě jeho",
        "Romanian": "și si în este nu un o de la cu pe care ce cum pentru din mai sunt a fi dar sau eu tu el ea "
        "scrie unde când să se ale lui",
        "Hungarian": "a az és hogy nem is van egy mi miért hogyan ez azt meg de vagy ha én te ő mint csak írj lehet "
        "volt",
        "Turkish": "ve bir bu da de için ne nasıl neden ile mi mı mu olarak daha çok var yok ben sen o ama veya "
        "gibi nedir yaz olan en kadar",
        "Indonesian or Malay": "yang dan di ini itu dengan untuk tidak dari dalam pada adalah saya kamu "
        "anda apa bagaimana "
        "mengapa akan bisa juga atau ke oleh tulis jelaskan",
        "Vietnamese": "và là của có không cho một các những được trong với này tôi bạn làm thế nào tại sao gì hãy "
        "viết để người về",
        "Swahili": "na ya wa kwa ni katika la za hii kama nini jinsi gani mimi wewe yeye sana pia lakini au andika",
    }.items()
}  # fmt: skip

# English words that say nothing of a prompt's topic, beside the stop words.
FILLER_WORDS = """
    go going goes gone went getting gets got think thinking thought say saying says said want wants wanted need
    needs needed find good best great better really sure someone someone's somebody something anything
    everything everyone anyone thing things way ways help hello hi hey okay thanks thank yeah yep well new take
    taking given put without might may must still even ever never lot lots kind back see look around come came
    try trying tried first two show can't i've i'd i'll you're you've you'll they're he's she's there's won't
    wouldn't couldn't doesn't didn't isn't aren't wasn't weren't hasn't haven't since else maybe actually
    already always every each another person people able doing done made makes making called keep feel little
    big old long able bit following
"""
FILLERS = frozenset(FILLER_WORDS.split())
ENGLISH_STOPS = STOP_WORDS[ENGLISH] | FILLERS

# The scripts of one language, then those that several share; each a character class.
ONE_LANGUAGE = {
    "Korean": "\uac00-\ud7af\u1100-\u11ff",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Hebrew": "\u0590-\u05ff",
    "Thai": "\u0e00-\u0e7f",
    "Lao": "\u0e80-\u0eff",
    "Burmese": "\u1000-\u109f",
    "Khmer": "\u1780-\u17ff",
    "Bengali script": "\u0980-\u09ff",
    "Punjabi": "\u0a00-\u0a7f",
    "Gujarati": "\u0a80-\u0aff",
    "Tamil": "\u0b80-\u0bff",
    "Telugu": "\u0c00-\u0c7f",
    "Kannada": "\u0c80-\u0cff",
    "Malayalam": "\u0d00-\u0d7f",
    "Sinhala": "\u0d80-\u0dff",
    "Georgian": "\u10a0-\u10ff",
    "Armenian": "\u0530-\u058f",
    "Ethiopic script": "\u1200-\u137f",
}
SEVERAL = {
    "Latin": "A-Za-z\u00c0-\u024f\u1e00-\u1eff",
    "Cyrillic": "\u0400-\u04ff",
    "Arabic": "\u0600-\u06ff\u0750-\u077f",
    "Han": "\u3400-\u4dbf\u4e00-\u9fff",
    "Kana": "\u3040-\u30ff",
    "Devanagari": "\u0900-\u097f",
}
SCRIPTS = {name: re.compile(f"[{letters}]") for name, letters in (SEVERAL | ONE_LANGUAGE).items()}
# Letters that tell languages of one script apart, the most telling first.
TELLING = {
    "Cyrillic": [("Ukrainian", "[їєґЇЄҐ]"), ("Serbian or Macedonian", "[ђћљњјџЂЋЉЊЈЏ]"), ("Belarusian", "[ўЎ]"),
                 ("Kazakh", "[әғқңұһӘҒҚҢҰҺ]"), ("Russian", r"[ыэёЫЭЁ]|\b(что|если|они|меня|почему|мне|чтобы|лучше)\b"),
                 ("Bulgarian", r"ъ|\b(какво|със|това|защо)\b")],
    "Arabic": [("Urdu", "[ٹڈڑںے]"), ("Persian", "[پچژگ]|است")],
    "Devanagari": [("Marathi", "आहे|मध्ये|ळ"), ("Hindi", "है|हैं|का|की|के|में|और|क्या")],
}  # fmt: skip
OTHERWISE = {"Arabic": "Arabic", "Han": "Chinese", "Kana": "Japanese"}
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
UNSPACED = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\u3040-\u30ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+")


@lru_cache(1 << 17)  # one prompt is asked for by several
def language_of(text: str) -> str:
    """The language's name, a script "not recognised", or "no words"."""
    shown = text[:LOOKED_AT]
    if shown.isascii():
        script = "Latin" if SCRIPTS["Latin"].search(shown) else ""
    else:
        counts = {name: len(pattern.findall(shown)) for name, pattern in SCRIPTS.items()}
        script = max(counts, key=lambda name: counts[name]) if any(counts.values()) else ""
        # Japanese mixes both, and a few kana among Chinese characters settle it.
        if script == "Han" and counts["Kana"] * 10 > counts["Han"]:
            script = "Kana"
    if not script:
        return NO_WORDS
    if script in ONE_LANGUAGE:
        return script if not script.endswith("script") else f"{script}, {UNKNOWN}"
    if script == "Latin":
        return by_stop_words(shown)
    found = next((name for name, letters in TELLING.get(script, ()) if re.search(letters, shown)), None)
    return found or OTHERWISE.get(script) or f"{script} script, {UNKNOWN}"


def by_stop_words(text: str) -> str:
    """The language of a Latin text whose stop words it has most of, different ones counted once."""
    words = {word.replace("’", "'") for word in WORD.findall(text.lower())}
    hits = sorted(((len(words & stops), name) for name, stops in STOP_WORDS.items()), reverse=True)
    (most, name), (second, _) = hits[0], hits[1]
    return name if most > second else f"Latin script, {UNKNOWN}"


def is_recognised(language: str) -> bool:
    return not language.endswith(UNKNOWN) and language != NO_WORDS


def content_words(text: str) -> list[str]:
    """Words in lower case in order, without the stop words of the text's language and single letters. Scripts that put
    no space between words give runs of two characters."""
    language = language_of(text)
    stops = STOP_WORDS[language] if language in STOP_WORDS and language != ENGLISH else ENGLISH_STOPS
    found = []
    for word in WORD.findall(text.lower()):
        if not word.isascii() and UNSPACED.match(word):
            found += [word[i : i + 2] for i in range(max(len(word) - 1, 1))]
        elif len(word) > 1 and word.replace("’", "'") not in stops:
            found.append(word)
    return found
