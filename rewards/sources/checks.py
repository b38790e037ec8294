"""The checks of `instructions`: each takes the answer, the prompt and its own arguments, and says whether it holds.

Named as IFEval names its instructions (arXiv 2311.07911). What differs: words are runs of letters and digits, sentences
end in . ! or ?, both without a tokenizer's models; the language of an answer is told by its script alone, so only
languages with a script of their own can be asked for.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence

Check = Callable[..., bool]

_SCRIPTS = {
    **dict.fromkeys(("ru", "uk", "bg", "mk", "sr"), "\u0400-\u04ff"),
    **dict.fromkeys(("ar", "fa", "ur"), "\u0600-\u06ff"),
    **dict.fromkeys(("hi", "mr", "ne"), "\u0900-\u097f"),
    **dict.fromkeys(("zh", "zh-cn", "zh-tw"), "\u4e00-\u9fff"),
    "he": "\u0590-\u05ff",
    "el": "\u0370-\u03ff",
    "ko": "\uac00-\ud7af",
    "ja": "\u3040-\u30ff\u4e00-\u9fff",
    "th": "\u0e00-\u0e7f",
    "bn": "\u0980-\u09ff",
    "pa": "\u0a00-\u0a7f",
    "gu": "\u0a80-\u0aff",
    "ta": "\u0b80-\u0bff",
    "te": "\u0c00-\u0c7f",
    "kn": "\u0c80-\u0cff",
    "ml": "\u0d00-\u0d7f",
}


def related(count: int, relation: str, wanted: int) -> bool:
    """IFEval's two relations, and exactly. Raises `ValueError` for another one."""
    found = {"at least": count >= wanted, "less than": count < wanted, "exactly": count == wanted}
    if relation not in found:
        raise ValueError(f"relation {relation!r}, expected one of: {', '.join(found)}")
    return found[relation]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['’-]\w+)*", text)


def _sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])[\"'”’)\]]*\s+", text.strip()) if _words(part)]


def _paragraphs(text: str, mark: str) -> list[str]:
    return [part.strip() for part in re.split(mark, text)]


def _count(text: str, phrase: str) -> int:
    return len(re.findall(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE))


def _keywords_exist(text: str, prompt: str, keywords: Sequence[str]) -> bool:
    return all(re.search(re.escape(word), text, re.IGNORECASE) for word in keywords)


def _forbidden(text: str, prompt: str, forbidden_words: Sequence[str]) -> bool:
    return not any(_count(text, word) for word in forbidden_words)


def _frequency(text: str, prompt: str, keyword: str, frequency: int, relation: str = "at least") -> bool:
    return related(_count(text, keyword), relation, int(frequency))


def _letters(text: str, prompt: str, letter: str, let_frequency: int, let_relation: str = "at least") -> bool:
    return related(text.lower().count(letter.lower()), let_relation, int(let_frequency))


def _language(text: str, prompt: str, language: str) -> bool:
    letters = [c for c in text if c.isalpha()]
    if language not in _SCRIPTS:
        raise ValueError(f"language {language!r} shares its script with others; known by theirs: {', '.join(_SCRIPTS)}")
    own = re.compile(f"[{_SCRIPTS[language]}]")
    return bool(letters) and sum(bool(own.match(c)) for c in letters) > len(letters) / 2


def _number_words(text: str, prompt: str, num_words: int, relation: str = "at least") -> bool:
    return related(len(_words(text)), relation, int(num_words))


def _number_sentences(text: str, prompt: str, num_sentences: int, relation: str = "at least") -> bool:
    return related(len(_sentences(text)), relation, int(num_sentences))


def _number_paragraphs(text: str, prompt: str, num_paragraphs: int) -> bool:
    found = [part for part in _paragraphs(text, r"\s?\*\*\*\s?") if part]
    return len(found) == int(num_paragraphs)


def _first_word(text: str, prompt: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    found = [part for part in _paragraphs(text, r"\n\n+") if part]
    if len(found) != int(num_paragraphs) or not 1 <= int(nth_paragraph) <= len(found):
        return False
    words = _words(found[int(nth_paragraph) - 1])
    return bool(words) and words[0].lower() == first_word.lower()


def _placeholders(text: str, prompt: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]\n]+\]", text)) >= int(num_placeholders)


def _postscript(text: str, prompt: str, postscript_marker: str = "P.S.") -> bool:
    return re.search(rf"^\s*{re.escape(postscript_marker)}", text, re.MULTILINE | re.IGNORECASE) is not None


def _bullets(text: str, prompt: str, num_bullets: int) -> bool:
    return len(re.findall(r"^\s*(?:\*(?!\*)|-(?!-))\s*\S", text, re.MULTILINE)) == int(num_bullets)


def _constrained(text: str, prompt: str, options: Sequence[str] = ()) -> bool:
    wanted = options or ("My answer is yes.", "My answer is no.", "My answer is maybe.")
    return any(option in text for option in wanted)


def _highlights(text: str, prompt: str, num_highlights: int) -> bool:
    bold = re.findall(r"\*\*([^*\n]+)\*\*", text)
    plain = re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", text)
    return sum(bool(part.strip()) for part in (*bold, *plain)) >= int(num_highlights)


def _sections(text: str, prompt: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"^\s*{re.escape(section_spliter)}\s*\d+", text, re.MULTILINE)) >= int(num_sections)


def _json(text: str, prompt: str) -> bool:
    bare = re.sub(r"\A\s*```(?:json)?\s*|\s*```\s*\Z", "", text, flags=re.IGNORECASE)
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, prompt: str) -> bool:
    return any(part.strip() for part in re.findall(r"<<([^<>\n]+)>>", text))


def _two_responses(text: str, prompt: str) -> bool:
    found = [part.strip() for part in text.split("******")]
    return len(found) == 2 and all(found) and found[0] != found[1]


def _repeat_prompt(text: str, prompt: str, prompt_to_repeat: str = "") -> bool:
    return text.strip().lower().startswith((prompt_to_repeat or prompt).strip().lower())


def _end(text: str, prompt: str, end_phrase: str) -> bool:
    return text.strip().strip("\"'").lower().endswith(end_phrase.strip().lower())


def _capital_frequency(text: str, prompt: str, capital_frequency: int, capital_relation: str = "at least") -> bool:
    shouted = [word for word in _words(text) if word.isupper()]
    return related(len(shouted), capital_relation, int(capital_frequency))


def _cased(text: str, upper: bool) -> bool:
    letters = [c for c in text if c.isalpha()]
    return bool(letters) and all(c == (c.upper() if upper else c.lower()) for c in letters)


def _no_comma(text: str, prompt: str) -> bool:
    return "," not in text


def _quotation(text: str, prompt: str) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


def _no_repeats(text: str, prompt: str, most: int = 1) -> bool:
    counts = Counter(sentence.lower() for sentence in _sentences(text))
    return not counts or max(counts.values()) <= int(most)


def _upper(text: str, prompt: str) -> bool:
    return _cased(text, upper=True)


def _lower(text: str, prompt: str) -> bool:
    return _cased(text, upper=False)


CHECKS: dict[str, Check] = {
    "keywords:existence": _keywords_exist,
    "keywords:forbidden_words": _forbidden,
    "keywords:frequency": _frequency,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:number_words": _number_words,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_frequency,
    "change_case:english_capital": _upper,
    "change_case:english_lowercase": _lower,
    "punctuation:no_comma": _no_comma,
    "repetition:no_repeated_sentences": _no_repeats,
}
