"""What the compilation of a grammar may use, and what the grammar library's refusals mean."""

from __future__ import annotations

import re

from llguidance import LLMatcher, LLParserLimits

# What a compilation may use; most schemas need the first only. llguidance keeps about 110 bytes for each unit, measured
# with counted patterns such as ^a{900001}$, and about 170 for each byte of a schema of many properties.
FUEL = (2_000, 20_000, 60_000, 200_000)
# The items of one mask. What a wide rule costs grows faster than they do: a mask of one takes up to 16 s with as many
# as schemas of thousands of properties need, and 0.4 s with those that a client's own rules have.
ITEMS, ITEMS_OF_CLIENTS = 20_000, 2_000
MAX_ROW = 10_000
OF_CLIENT = "// rules of a client"  # a comment in a grammar that has them
# A new grammar is tried with answers of this many tokens, so that one that soon exceeds its limits is refused at once.
TRIED_TOKENS = 16
# Which of the allowed tokens each of these answers takes, as a share of them.
TRIED_ANSWERS = (0.0, 0.35, 0.7, 1.0)
# The library calls itself once for each rule of a chain, with some 3 KB of stack: what passes a trial needs less than a
# compilation has.
TRIAL_STACK, COMPILE_STACK = 4 << 20, 64 << 20
# What the library says if an answer exceeds what it may keep of a grammar, which grows with the fuel.
MORE_MAY_HELP = "too many expressions"
TOO_COMPLEX = "is too complex"
# How the library's messages begin where a compilation exceeds its limits, whatever the vocabulary. Those of a mistake
# begin with its place, and quote the grammar. One that names a token that there is not is such a mistake, too.
BEYOND_LIMITS = ("fuel exhausted", "initial lexer configuration", "grammar size", MORE_MAY_HELP)


def limits_of(fuel: int, grammar: str) -> LLParserLimits:
    """Return the limits of a grammar: a few MiB of states for each answer, and bounded work for each row of items.

    They do not bound the time of all masks, which grows with an ambiguous answer; `GrammarMask` does.
    """
    items = ITEMS_OF_CLIENTS if OF_CLIENT in grammar else ITEMS
    return LLParserLimits(
        initial_lexer_fuel=fuel,
        step_lexer_fuel=100_000,
        step_max_items=items,
        max_items_in_row=min(items, MAX_ROW),
        max_lexer_states=20_000,
        max_grammar_size=200_000,
        verbose_errors=False,
    )


def reason(message: str) -> str:
    """Return our own wording of an llguidance error, without any text of the schema except names of keywords."""
    _, found, keys = message.partition("Unimplemented keys: ")
    if found:
        names = [name.strip(' "') for name in keys.partition("]")[0].strip("[").split(",")]
        return f"uses what cannot be enforced: {', '.join(name for name in names if name.isidentifier())}"
    limits = ("limit", "too complex", "too large", "too many", "fuel", "max is")
    return TOO_COMPLEX if any(word in message.lower() for word in limits) else "cannot be enforced"


def fault(grammar: str) -> str | None:
    """Return where the mistake of a grammar stands, as line and column; None without one, or if that is not known."""
    found = re.match(
        r"at (\d+)\((\d+)\)|(\d+)\((\d+)\)", LLMatcher.validate_grammar(grammar, limits=limits_of(FUEL[-1], grammar))
    )
    return f"line {found[1] or found[3]}, column {found[2] or found[4]}" if found else None
