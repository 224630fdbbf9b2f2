"""Phrases that the house style forbids, because a reader has to parse them twice. See `tests/test_rules.py`.

Each pattern is narrow: it finds the commonest form of a habit and lets pass what is good English elsewhere.
"""

from __future__ import annotations

import re

# A pattern, and what to write instead. Patterns look at one paragraph on one line, with code in backticks taken out.
PHRASES: tuple[tuple[str, str], ...] = (
    (r"\bwho(?:m|se)?ever\b", "name the subject: the caller, the io thread, the daemon"),
    (r"(?:^|\. )(?-i:Whose|Who) [^.?]+(?:[.:;]|$)", "name the subject"),
    (r"(?:[.;:] |\b(?:and|so) )(?-i:who) (?:waits|asks|wants|comes|finds)\b", "name the subject"),
    (r"\. (?-i:What) [^.?]+\.", "no relative clause as a subject"),
    (r"\b(?:what|how)ever (?:that |it )?(?:comes|becomes)\b", "for whatever reason, even if"),
    (r"\bwhat becomes of\b", "name the end, the effect, the cleanup"),
    (r": (?-i:what|who) [^.:;?]*, and (?:what|who|whom|how|when|to whom)\b", "name the things, not the questions"),
    (r"^(?-i:Those|That) (?:that|which|who|of|whose)\b", "name the things"),
    (
        r", for (?:(?:it|he|she|they|we|you|there|nobody|somebody|everybody)\b"
        r"|(?:(?!(?:that|which|who|whose|what|each)\b)[\w'`]+ ){1,3}"
        r"(?:is|are|was|were|has|have|may|must|can|cannot|would|could|does|do|did)\b)",
        "because",
    ),
    (r"(?:^|[.,;:(] |\bor )else\b(?! if\b)", "otherwise"),
    (r"(?<!thing)(?<!body)(?<!one)(?<!where)(?<!what)(?<!who) else(?=[.,;:)]|$)", "otherwise"),
    (r"\b(?:is|are|was|were|be|been|being) told\b(?! apart)", "say who reports it, or what the other learns"),
    (r"\b(?:somebody|everybody|nobody (?:would|else))\b", "name the subject"),
    (r"^(?-i:What|Whether|Which) [^:?]*\.", "say what it is: the value that ..., True if ..."),
    (r"\b(?:is|are|was|were) over\b(?! (?:the|a|an|it)\b)", "has ended, has finished"),
    (r"\b(?:is|are|was|were|be|been) (?:no (?:more|longer) |already )?gone\b", "ended, freed, removed, dropped"),
    (
        r"\b(?:is|are|was|were|be) (?:not |already )?there(?=[.,;:)]|$| (?:twice|already|yet|in time|now)\b)",
        "exists, has arrived, is free",
    ),
    (r"\btells? (?:which|what|whether|that|why|the (?:daemon|driver|caller|worker|node))\b", "reports, names, says"),
    (
        r"\bwhat (?:is|are|was|were) (?:asked|cancelled|done|kept|logged|made|posted|put|raised|read|said|sent"
        r"|submitted|told|wanted|written)\b",
        "name the thing",
    ),
    (r"^(?-i:What|Who|Which|How) [^.?]*-{8,}$", "a heading names things"),
    (r"\bwhat (?:waits|comes|came)\b", "name the things: the tasks that wait"),
    (r"-> who\b", "name the thing"),
    (r"\bwhich [\w']+ (?:has|have|gets?|got|knows?|fetch(?:es)?) which\b", "say who does what to what"),
    (r"(?:^|\. )(?-i:For that) (?:a|an|the|it|they)\b", "therefore, so that"),
    (
        r"\b(?:hears?(?= (?:of|that|why|it|them|the|nothing|a)\b)|(?:has|have|had|not|never|be) heard\b)",
        "learns, gets, receives",
    ),
    (r"\banew\b", "again"),
    (r"\b(?:has|have|had) to do with\b", "say what it does with it"),
    (r"\bspeaks? for (?:it|them|the|a|its)\b", "reports, decides"),
    (
        r"\bwords? (?:of|about|from) (?:the|an?|its?|this|that|another|other|X|A|B)\b"
        r"|\b(?:without a|waits? for|last|no|own) words?\b(?! (?:of )?(?:mine|list))",
        "message, answer, report",
    ),
    (r"\bsays? so to\b", "reports that to"),
    (r"\bto and fro\b", "back and forth, between the two"),
    (r"\b(?:do|does|did) no good\b", "say what fails"),
    (r"\b(?:vigils?|batons?|undisturbed|hear_out|pok(?:e|es|ed|ing)|polite(?:ly)?|spoiled)\b", "the field's term"),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), advice) for pattern, advice in PHRASES)
_CODE = re.compile(r"``[^`]*``|`[^`]*`")


def complaints(paragraph: str) -> list[str]:
    """The forbidden phrases of a paragraph, each with what to write instead."""
    text = _CODE.sub("x", " ".join(paragraph.split()))
    return [f"{match[0].strip(' .,;:')!r}: {advice}" for form, advice in _COMPILED for match in form.finditer(text)]
