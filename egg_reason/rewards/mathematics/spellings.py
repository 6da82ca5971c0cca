# ruff: noqa: RUF001 (the signs themselves are meant)
r"""The table of spellings: what `latex.clean` writes in another way, in the order in which it does.

An entry is (word, pattern, spelling): the pattern is tried only where the word occurs in the text, since most
answers hold few of the words.
"""

import re
from typing import Any

__all__ = ["SIGN_TABLE", "SPELLINGS"]

SIGNS = {
    "−": "-",
    "–": "-",
    "—": "-",
    "‐": "-",
    "×": r"\times ",
    "÷": r"\div ",
    "·": r"\cdot ",
    "⋅": r"\cdot ",
    "∗": "*",
    "π": r"\pi ",
    "∞": r"\infty ",
    "√": r"\sqrt ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∅": r"\emptyset ",
    "ℝ": r"\reals ",
    "≤": r"\leq ",
    "≥": r"\geq ",
    "≠": r"\neq ",
    "≈": r"\approx ",
    "≡": r"\equiv ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "°": r"\degree ",
    "θ": r"\theta ",
    "α": r"\alpha ",
    "β": r"\beta ",
    "λ": r"\lambda ",
    "∖": r"\setminus ",
    "⟨": r"\langle ",
    "⟩": r"\rangle ",
    "′": "'",
    "½": r"\frac{1}{2}",
    "⅓": r"\frac{1}{3}",
    "⅔": r"\frac{2}{3}",
    "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}",
    "⁰": "^0",
    "¹": "^1",
    "²": "^2",
    "³": "^3",
    "⁴": "^4",
    "⁵": "^5",
    "⁶": "^6",
    "⁷": "^7",
    "⁸": "^8",
    "⁹": "^9",
    "₹": r"\rupee ",
    "€": r"\euro ",
    "£": r"\pound ",
    "¥": r"\yen ",
    "\u00a0": " ",
    "\u2009": r"\,",
    "\u202f": r"\,",
    "\u200b": "",
}
SIGN_TABLE = str.maketrans(SIGNS)

MULTIPLES = {
    "hundred": r"\cdot 10^2 ",
    "thousand": r"\cdot 10^3 ",
    "million": r"\cdot 10^6 ",
    "billion": r"\cdot 10^9 ",
    "trillion": r"\cdot 10^{12} ",
}

_SPELLINGS: list[tuple[str, str, Any]] = [
    # A brace to the left of rows alone is a system.
    (
        "array",
        r"(?:\\left\s*)?\\\{\s*\\begin\s*\{(array|aligned|matrix)\}(?:\s*\{[clr]*\})?(.*?)"
        r"\\end\s*\{\1\}\s*\\right\s*\.?",
        r"\\begin{cases}\2\\end{cases}",
    ),
    ("\\", r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])\.?", ""),
    (
        "\\",
        r"\\(?:displaystyle|textstyle|limits|nolimits|rm|bf|it|sf|mathstrut|phantom\{[^{}]*\})"
        r"(?![A-Za-z])",
        "",
    ),
    ("\\text", r"\A\\text\s*\{\s*((?:\\\$|[-+]?[0-9.]|[(\[])[^{}]*)\}\Z", r"\1"),
    ("\\text", r"\\text\s*\{\s*\\\$\s*\}", r"\\$"),
    ("", r"\A(?:US\\?\$|USD)\s*(?=[0-9.])", r"\\$"),
    ("", r"\A(?:Rs\.?|INR)\s*(?=[0-9.])", r"\\rupee "),
    ("prime", r"\^\s*\{?\s*((?:\\prime\s*)+)\}?", lambda match: "'" * match[1].count("prime")),
    ("\\", r"\\(?:\||[lr]?Vert(?![A-Za-z]))", "|"),
    ("\\", r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    ("\\", r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    ("\\", r"\\(?:le|leqslant)(?![A-Za-z])", r"\\leq"),
    ("\\", r"\\(?:ge|geqslant)(?![A-Za-z])", r"\\geq"),
    ("\\", r"\\(?:ne|not\s*=)(?![A-Za-z])", r"\\neq"),
    ("\\", r"\\lt(?![A-Za-z])", "<"),
    ("\\", r"\\gt(?![A-Za-z])", ">"),
    ("\\", r"\\lbrace(?![A-Za-z])", r"\\{"),
    ("\\", r"\\rbrace(?![A-Za-z])", r"\\}"),
    ("\\", r"\\(?:lbrack)(?![A-Za-z])", "["),
    ("\\", r"\\(?:rbrack)(?![A-Za-z])", "]"),
    ("\\", r"\\(?:vert|mid)(?![A-Za-z])", "|"),
    ("\\", r"\\(?:varnothing|empty)(?![A-Za-z])", r"\\emptyset"),
    ("\\", r"\\(?:mathbb|mathbf|Bbb|bold)\s*\{?\s*R\s*\}?|\\R(?![A-Za-z])", r"\\reals "),
    ("\\", r"\\(?:backslash|smallsetminus)(?![A-Za-z])", r"\\setminus "),
    ("\\", r"\\(?:thinspace|enspace|hspace\*?\s*\{[^{}]*\}|nobreak|allowbreak)(?![A-Za-z])", " "),
    # A wide blank separates two answers; before a unit or a remark, or beside a comma, it is a blank.
    (
        "quad",
        r"(?<![\s,;])\s*(?:\\q?quad(?![A-Za-z])\s*)+"
        r"(?=[-+]?\s*(?:[0-9.]|\\(?:frac|sqrt|pi)(?![A-Za-z])"
        r"|[A-Za-z]\w*(?:_\{\w*\})?\s*(?:=|<|>|\\[lgn]eq)))",
        r" \\gap ",
    ),
    ("quad", r"(?<=\))\s*(?:\\q?quad(?![A-Za-z])\s*)+(?=\()", r" \\gap "),
    ("quad", r"\\(?:qquad|quad)(?![A-Za-z])", " "),
    ("mod", r"\\pmod\s*(?:\{([^{}]*)\}|([0-9A-Za-z]+))", r" \\modulo{\1\2}"),
    ("mod", r"\(\s*\\?(?:b?mod|text\s*\{\s*mod\s*\})(?![A-Za-z])\s*([^()]*)\)", r" \\modulo{\1}"),
    (
        "mod",
        r"(\\equiv.*)\\?(?:b?mod|text\s*\{\s*mod\s*\})(?![A-Za-z])"
        r"\s*\{?([0-9A-Za-z]+)\}?\s*$",
        r"\1 \\modulo{\2}",
    ),
    ("\\equiv", r"^((?!.*\\modulo).*?)\\equiv(?![A-Za-z])", r"\1="),
    ("mod", r"\\text\s*\{\s*mod\s*\}|(?<=[0-9)}\s])mod(?=\s*[0-9({])", r"\\bmod "),
    (
        "",
        r"^(?:\\text\s*\{\s*)?(?i:approximately|approx\.?|about|roughly|around)\s*\}?\s*(?=[-\\$0-9.])"
        r"|^\\(?:sim|simeq|cong)(?![A-Za-z])",
        "",
    ),
    ("\\", r"\\(?:simeq|thickapprox|approxeq|doteq)(?![A-Za-z])", r"\\approx "),
    ("\\overrightarrow", r"\\overrightarrow(?![A-Za-z])", r"\\vec"),
    # The segment AB, or its length.
    ("\\", r"\\overline\s*\{\s*([A-Z]{2})\s*\}", r"\1"),
    ("\\", r"\\(?:textbf|textit|textrm|textnormal|textsf|texttt|mbox|hbox|emph)(?![A-Za-z])", r"\\text"),
    ("\\", r"\\(?:mathbf|boldsymbol|mathit|mathsf|mathcal|bm|pmb)\s*\{([^{}]*)\}", r"{\1}"),
    ("\\", r"\\(?:mathrm|operatorname\*?|mathop)(?![A-Za-z])", r"\\upright"),
    ("\\", r"\\(?:textcolor|color)\s*\{[^{}]*\}", ""),
    ("\\", r"\\(?:imath)(?![A-Za-z])", "i"),
    ("\\", r"\\dots[bcmo]?(?![A-Za-z])|\\cdots(?![A-Za-z])", r"\\ldots"),
    ("\\", r"(?:\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![A-Za-z])|\^\s*\{?\s*\\degree\s*\}?)", r"\\degree "),
    ("\\", r"\\(?:text|upright)\s*\{\s*(?:degrees?|deg)\s*\}", r"\\degree "),
    ("degree", r"(?<=[0-9}\s])(?:degrees?)(?![A-Za-z])", r"\\degree "),
    ("\\", r"\\(?:text|upright)\s*\{\s*(?:percent(?:age)?|pct)\s*\}", r"\\%"),
    ("", r"(?<=[0-9}\s])(?:percent(?:age)?|pct)(?![A-Za-z])", r"\\%"),
    ("", r"(?<!\\)%", r"\\%"),
    (
        "upright",
        r"\\upright\s*\{[~\s]*([A-Za-z]+)\s*\}\s*/\s*"
        r"\\upright\s*\{[~\s]*([A-Za-z]+)\s*\}",
        r"\\text{\1/\2}",
    ),
    ("upright", r"\\upright\s*\{\s*([A-Za-z])\s*\}", r"\1"),
    (
        "",
        r"(?<=[0-9])\s*(?:\^\s*\{?\s*)?(?:\\(?:text|upright)\s*\{\s*)?(?:st|nd|rd|th)(?![A-Za-z])"
        r"(?:\s*\}){0,2}",
        "",
    ),
    ("", r"\.\(([0-9]+)\)", r".\\overline{\1}"),
    ("\\dot", r"\.([0-9]*)\\dot\s*\{?([0-9])\}?(?![0-9\\])", r".\1\\overline{\2}"),
    ("\\dot", r"\.([0-9]*)\\dot\s*\{?([0-9])\}?([0-9]*)\\dot\s*\{?([0-9])\}?", r".\1\\overline{\2\3\4}"),
    (
        "upright",
        r"\\upright\s*\{\s*((?:arc|ar|a)?(?:sin|cos|tan|cot|sec|csc)h?"
        r"|ln|log|exp|max|min|gcd|lcm|sgn|cis|Re|Im|det|b?mod)\s*\}",
        r"\\\1",
    ),
    ("\\text", r"\\text\s*\{\s*(max|min|gcd|lcm|sgn)\s*\}(?=\s*\()", r"\\\1"),
    ("upright", r"\\upright", r"\\text"),
    ("\\text", r"(\\text\s*\{[^{}]*)\^\s*\{(-?[0-9])\}", r"\1^\2"),
    ("\\text", r"\\text\s*\{\s*([A-Z])\s+(and|or)\s+([A-Z])\s*\}", r"\1 \\\2 \3"),
    ("\\text", r"\\text\s*\{\s*,?\s*(and|or)\s*\}", r"\\\1 "),
    ("", r"(?<![A-Za-z\\])(and|or)(?![A-Za-z])", r"\\\1 "),
    ("\\text", r"^\\text\s*\{\s*([A-Za-z])\s*\.?\s*\}$", r"\1"),
    ("\\text", r"(^|[,(=]\s*|\\or\s*|\\and\s*)\\text\s*\{\s*([A-Z])\s*\}", r"\1\2"),
    ("\\text", r"\\text\s*\{\s*\(([A-Za-z])\)\s*\.?\s*\}", r" \1 "),
    ("\\text", r"\\text\s*\{\s*(\([A-Z]\)(?:\s*,\s*\([A-Z]\))+)\s*\}", r"\1"),
    ("\\text", r"\\text\s*\{\s*([A-Z](?:,\s*[A-Z])+)\s*\}", r"\1"),
    (
        "",
        r"(?<=[0-9}\s])(?:\\text\s*\{\s*)?(hundred|thousand|(?:m|b|tr)illion)s?(?![A-Za-z])(?:\s*\})?",
        lambda match: MULTIPLES[match[1]],
    ),
    ("\\text", r"\\text\s*\{\s*([-+]?[0-9][0-9.,/ ]*)\s*\}", r" \1 "),
    ("\\text", r"\\text\s*\{\s*\}", " "),
    ("=", r"<=", r"\\leq "),
    ("=", r">=", r"\\geq "),
    ("=", r"!=", r"\\neq "),
]
SPELLINGS = [(word, re.compile(pattern), spelling) for word, pattern, spelling in _SPELLINGS]
