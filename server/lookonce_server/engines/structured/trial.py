"""Compile a JSON Schema in a process of its own, which may die of it.

It is run as `python -m lookonce_server.engines.structured.trial`.

A schema's size does not tell what it costs: forty bytes (`minItems` of a thousand million) want all the memory there
is, and a few kilobytes of merged `allOf` compile for minutes. So the first process to compile a schema is this one,
within limits of time and memory; what passes here is cheap everywhere.

The schema comes on standard input, what is wrong with it goes to standard output. A trial that dies was over a limit.
"""

import resource
import signal
import sys

from llguidance import LLMatcher, LLTokenizer

CPU_SECONDS = 0.25
MEMORY_BYTES = 1024**3  # of address space


def grammar_of(schema: str) -> str:
    """Return llguidance's grammar of a JSON Schema.

    JSON is compact, since models that are free to may write spaces forever.

    Raises:
        ValueError: it is no JSON object.
    """
    return str(LLMatcher.grammar_from_json_schema(schema, defaults={"whitespace_flexible": False}))


def problem_of(matcher: LLMatcher) -> str:
    """Return a matcher's problem without the state it tells, "" if it has none."""
    error = matcher.get_error().partition("\n<state>")[0].strip()
    return "no JSON fits it" if error.startswith("NoExtension") else error


def main() -> None:
    """Try the schema on standard input."""
    schema = sys.stdin.buffer.read().decode()
    tokenizer = LLTokenizer("byte")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process
    try:
        sys.stdout.write(_problem(schema, tokenizer))
    except ValueError as error:
        sys.stdout.write(str(error))


def _problem(schema: str, tokenizer: LLTokenizer) -> str:
    """Return the problem of compiling a schema, or of an answer's first steps."""
    matcher = LLMatcher(tokenizer, grammar_of(schema), log_level=0)
    if not matcher.is_error() and matcher.consume_tokens(list(matcher.compute_ff_bytes())):
        matcher.compute_bitmask()
    return problem_of(matcher)


if __name__ == "__main__":
    main()
