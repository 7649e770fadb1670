"""The grammar of contrast expressions, parsed here and never evaluated.

::

    sum     = product {("+" | "-") product}
    product = factor {("*" | "/") factor}
    factor  = {"+" | "-"} ("(" sum ")" | number | name | "`" name "`")

Every value is a linear form: weights of columns, and a constant.
"""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from chunkglm.design._messages import list_names, quote, suggest
from chunkglm.errors import ContrastError

MAX_LENGTH = 10_000
MAX_DEPTH = 100

_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WORD = re.compile(r"[^\s+*/()`-]+")
_SPACE = re.compile(r"\s*")


@dataclass(slots=True)
class _Form:
    """A linear form ``sum(weights[j] * column j) + constant``."""

    weights: dict[int, float] = field(default_factory=dict)
    constant: float = 0.0

    def add(self, other: "_Form", sign: float) -> None:
        for j, weight in other.weights.items():
            self.weights[j] = self.weights.get(j, 0.0) + sign * weight
        self.constant += sign * other.constant

    def multiply(self, factor: float) -> None:
        self.weights = {j: weight * factor for j, weight in self.weights.items()}
        self.constant *= factor

    def divide(self, divisor: float) -> None:
        self.weights = {j: weight / divisor for j, weight in self.weights.items()}
        self.constant /= divisor

    def is_finite(self) -> bool:
        return math.isfinite(self.constant) and all(map(math.isfinite, self.weights.values()))


def parse_expression(text: str, names: Sequence[str], source: str) -> dict[int, float]:
    """Return the weights of the columns in a linear expression.

    Parameters
    ----------
    text : str
        The expression.
    names : sequence of str
        Column names, unique.
    source : str
        What an error calls the design.

    Returns
    -------
    dict
        Weight by column number; columns that do not occur are left out.
    """
    for whole in (text, text.strip()):
        if whole and whole in names:
            return {names.index(whole): 1.0}
    if len(text) > MAX_LENGTH:
        raise ContrastError(
            f"contrast {quote(text)} has {len(text)} characters, but an expression has at most "
            f"{MAX_LENGTH}; give the weights as a vector or a dict"
        )
    parser = _Parser(text, names, source)
    form = parser.parse()
    if not form.weights:
        parser.refuse("names no column, only numbers")
    if form.constant != 0:
        parser.refuse(f"has the constant {form.constant:g}; only columns can be added or taken off")
    return form.weights


def _joins(character: str) -> bool:
    """Tell whether a character can continue an identifier (combining accents can)."""
    return f"_{character}".isidentifier() or character.isalnum()


def _why_numbered(names: Sequence[str]) -> str:
    """Say where names come from that nobody gave."""
    numbered = list(names) == [f"regressor_{j}" for j in range(len(names))]
    return " (so called since the design came without names: no header line)" if numbered else ""


class _Parser:
    """One expression being read; `position` is the next character."""

    def __init__(self, text: str, names: Sequence[str], source: str) -> None:
        self.text = text
        self.names = names
        self.source = source
        self.position = 0
        self.depth = 0
        self.columns = {name: j for j, name in enumerate(names)}
        # The longest first, by first character: 5,000 terms of 1,000 columns stay quick.
        self.by_start: defaultdict[str, list[str]] = defaultdict(list)
        for name in sorted(filter(None, names), key=len, reverse=True):
            self.by_start[name[0]].append(name)

    def refuse(self, problem: str) -> NoReturn:
        raise ContrastError(
            f"contrast {quote(self.text)} {problem}; write a sum of weighted columns of "
            f"{self.source}: {list_names(self.names)}{_why_numbered(self.names)}"
        )

    def refuse_here(self, problem: str) -> NoReturn:
        self.refuse(f"{problem} at character {self.position + 1}")

    def peek(self) -> str:
        """Skip blanks and return the next character, empty at the end."""
        skipped = _SPACE.match(self.text, self.position)
        self.position = skipped.end() if skipped else self.position
        return self.text[self.position : self.position + 1]

    def parse(self) -> _Form:
        if not self.peek():
            self.refuse("is empty")
        form = self.sum()
        if self.peek():
            self.refuse_unexpected()
        return form

    def sum(self) -> _Form:
        form = self.product()
        while (sign := self.peek()) and sign in "+-":
            self.position += 1
            form.add(self.product(), 1.0 if sign == "+" else -1.0)
        self.check_finite(form)
        return form

    def product(self) -> _Form:
        form = self.factor()
        while (sign := self.peek()) and sign in "*/":
            if self.text.startswith("**", self.position):
                self.refuse_here("has a power ('**')")
            start = self.position
            self.position += 1
            other = self.factor()
            if sign == "*" and not form.weights:
                form, other = other, form
            if other.weights:
                self.position = start
                verb = "multiplies columns by columns" if sign == "*" else "divides by columns"
                self.refuse_here(f"{verb}, but only numbers can stand there,")
            if sign == "*":
                form.multiply(other.constant)
            elif other.constant == 0:
                self.position = start
                self.refuse_here("divides by zero")
            else:
                form.divide(other.constant)
        self.check_finite(form)
        return form

    def check_finite(self, form: _Form) -> None:
        if not form.is_finite():
            self.refuse("overflows: a weight is beyond 1.8e308")

    def factor(self) -> _Form:
        negative = False
        while True:
            sign = self.peek()
            # A column may be called "-" or "+x": names come before signs.
            if not sign or sign not in "+-" or self.match_name():
                break
            negative ^= sign == "-"
            self.position += 1
        form = self.operand()
        if negative:
            form.multiply(-1.0)
        return form

    def operand(self) -> _Form:
        character = self.peek()
        if character == "`":
            quoted = self.quoted()
            if quoted is not None:
                return quoted
        name = self.match_name()
        number = _NUMBER.match(self.text, self.position)
        if number and number.end() - self.position > len(name):
            return self.number(number.group())
        if name:
            self.position += len(name)
            return _Form({self.columns[name]: 1.0})
        if character == "(":
            return self.group()
        return self.refuse_operand(character)

    def group(self) -> _Form:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.refuse_here(f"has more than {MAX_DEPTH} nested parentheses")
        opened = self.position
        self.position += 1
        form = self.sum()
        if not self.peek():
            self.position = opened
            self.refuse_here("has a parenthesis that is never closed")
        if self.peek() != ")":
            self.refuse_unexpected()
        self.position += 1
        self.depth -= 1
        return form

    def number(self, digits: str) -> _Form:
        end = self.position + len(digits)
        if end < len(self.text) and _joins(self.text[end]):
            word = _WORD.match(self.text, self.position)
            name = word.group() if word else digits
            self.refuse_here(f"has no column {quote(name)}{suggest(name, self.names)}")
        form = _Form(constant=float(digits))
        if math.isinf(form.constant):
            self.refuse_here(f"has a number beyond 1.8e308 ({quote(digits)})")
        self.position = end
        return form

    def quoted(self) -> _Form | None:
        """Return the column in back-quotes; None when it is not one."""
        end = self.text.find("`", self.position + 1)
        name = self.text[self.position + 1 : end]
        if end >= 0 and name in self.columns:
            self.position = end + 1
            return _Form({self.columns[name]: 1.0})
        # A name that holds a back-quote itself may still start here.
        if end >= 0 and not self.match_name():
            self.refuse_here(f"has no column {quote(name)}{suggest(name, self.names)}")
        return None

    def match_name(self) -> str:
        """Return the longest name that starts here and ends where a word can, or nothing."""
        for name in self.by_start.get(self.text[self.position : self.position + 1], ()):
            end = self.position + len(name)
            if self.text.startswith(name, self.position) and not self.is_glued(end):
                return name
        return ""

    def is_glued(self, end: int) -> bool:
        """Tell whether the text before `end` goes on after it, as face-1 does in face-1.5."""
        following = self.text[end : end + 2]
        if not following:
            return False
        in_number = self.text[end - 1] in "0123456789" and re.match(r"\.[0-9]", following)
        return _joins(following[0]) or bool(in_number)

    def refuse_unexpected(self, expected: str = "+ - * / or a parenthesis") -> NoReturn:
        word = _WORD.match(self.text, self.position)
        part = word.group() if word else self.text[self.position]
        self.refuse_here(f"has {quote(part)}, where only {expected} can stand,")

    def refuse_operand(self, character: str) -> NoReturn:
        if not character:
            self.refuse("ends where a column or a number should follow")
        if character == "`":
            self.refuse_here(
                f"has a back-quote that is never closed ({quote(self.text[self.position :])})"
            )
        word = _WORD.match(self.text, self.position)
        if word is None:
            self.refuse_unexpected("a column or a number")
        self.refuse_here(f"has no column {quote(word.group())}{suggest(word.group(), self.names)}")
