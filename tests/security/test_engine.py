"""Prompts, schemas and neighbours that stopped or confused other engines; docs/known-vulnerabilities.md says which."""

import ast
import inspect
import json
from collections.abc import Hashable

import pytest

from engine.errors import ValidationError
from engine.llm_engine import LLMEngine
from engine.schedule.block_pool import BLOCK, BlockPool
from engine.text.grammar import CACHED_BYTES, Grammars, json_grammar
from engine.text.processor import ImagePreparer, load_processor
from engine.text.prompt import PromptPreparer
from engine.types import (
    ChatPrompt,
    EngineConfig,
    GenerationRequest,
    SamplingParams,
    TextPrompt,
    TokensPrompt,
    Vocabulary,
)
from routes.chat import call_stream, json_stream, output
from routes.chat.output import CALL, CALL_END, CallBegin, Content, OutputParser
from tests.checkpoints import CHAT_TEMPLATE, text_spec
from tests.fakes import PATIENCE
from tests.masks import bitmask_of

ENDLESS = [
    r"^(a+)+b$",
    r"^(a|a)*b$",
    r"^(([a-z])+.)+[A-Z]([a-z])+$",
    r"^(a{1,200}){1,200}$",
    r"^(.*a){25}$",
]
BEYOND_A_GRAMMAR = [
    r"^(?=a)b$",
    r"^(a)\1$",
    "(",
    "[z-a]",
    "a{2,1}",
]
TOKENS = (b"", *(bytes([code]) for code in range(1, 256)), b"")


@pytest.fixture(scope="module")
def grammars():
    """Grammars over single bytes."""
    made = Grammars(Vocabulary(TOKENS, frozenset({0}), lambda text: list(text.encode())), seconds=PATIENCE)
    yield made
    made.close()


def matched(grammars, pattern):
    """Let a text begin that a pattern has to follow."""
    mask = grammars.mask(json_grammar(json.dumps({"type": "string", "pattern": pattern})))
    for token in b'"' + b"a" * 64:
        assert bitmask_of(mask).any()
        mask.accept(token)


@pytest.mark.parametrize("pattern", ENDLESS)
def test_a_pattern_is_matched_within_its_limits(grammars, pattern):
    """Where other engines look at each way to match it, the work at compilation and at each token is limited."""
    matched(grammars, pattern)


@pytest.mark.parametrize("pattern", BEYOND_A_GRAMMAR)
def test_a_pattern_that_cannot_be_enforced_is_refused(grammars, pattern):
    """As the client's mistake; the next schema is compiled."""
    with pytest.raises(ValidationError):
        matched(grammars, pattern)
    assert bitmask_of(grammars.mask(json_grammar('{"type": "boolean"}'))).any()


@pytest.mark.parametrize(
    "schema",
    [
        '{"type": "nonsense"}',
        '{"$ref": "#/nowhere"}',
        '{"type": 7}',
        '{"enum": {}}',
        '{"properties": []}',
        "[]",
        "7",
        "{",
    ],
)
def test_a_schema_that_is_none_is_the_clients_mistake(grammars, schema):
    """Whatever the library raises, the error is one of ours, and the next schema is compiled."""
    with pytest.raises(ValidationError):
        grammars.mask(json_grammar(schema))
    assert bitmask_of(grammars.mask(json_grammar('{"type": "boolean"}'))).any()


def test_compiled_schemas_are_bounded_in_bytes(grammars):
    """However large each is and however many are sent, what is kept of them stays under its bound."""
    sizes = []
    for number in range(8):
        schema = json.dumps({"enum": [f"{value:050}{number}" for value in range(900)]})
        alone = Grammars(grammars._vocabulary, seconds=PATIENCE)
        for one in (grammars, alone):
            assert bitmask_of(one.mask(json_grammar(schema))).any()
            assert one.cached_bytes <= CACHED_BYTES
        sizes.append(alone.cached_bytes)
        alone.close()
    assert sum(sizes) > CACHED_BYTES


MEMO = "Salary memo for person A: 412,000 roubles a month, approved by the board on 3 May."


def test_a_neighbours_prompt_is_not_in_the_cache(text_checkpoint):
    """Another client's guess is computed like any other, right or wrong; only the one who asked finds it cached."""
    engine = LLMEngine(text_spec(text_checkpoint), EngineConfig(max_num_seqs=2, cpu_threads=1))
    engine.start()

    def cached(client, memo):
        prompt = ChatPrompt(({"role": "user", "content": memo},))
        request = GenerationRequest("r", prompt, SamplingParams(2), client, timeout=60)
        return engine.submit(request).result().cached_tokens

    try:
        assert cached("a", MEMO) == 0
        assert [cached("b", MEMO), cached("c", MEMO.replace("412", "413"))] == [0, 0]
        assert cached("a", MEMO) > 0
    finally:
        engine.stop(0.0)


class Colliding:
    """A key whose hash is that of every other."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Colliding) and other.name == self.name


def test_colliding_hashes_are_no_cache_hit():
    """A block is found by its exact tokens and those before it; an equal hash is not enough."""
    pool = BlockPool(8)
    known: list[Hashable] = [Colliding(f"a{n}") for n in range(2 * BLOCK)]
    forged: list[Hashable] = [Colliding(f"b{n}") for n in range(2 * BLOCK)]
    blocks = pool.allocate(2)
    assert pool.register(blocks, known) is blocks
    assert pool.find([*known, 0]) == blocks
    assert pool.find([*forged, 0]) == []
    assert pool.find([*forged[:BLOCK], *known[BLOCK:], 0]) == []


def test_a_tool_call_is_read_without_backtracking():
    """Calls are found by plain search: no regular expression reads what a model wrote, and only the tags are lost."""
    for module in (output, call_stream, json_stream):
        imported = {name for node in ast.walk(ast.parse(inspect.getsource(module))) for name in names(node)}
        assert not {"re", "regex"} & imported
    text = f"{CALL}[f(a=[(" * 500 + "((((" * 500 + CALL_END
    parser = OutputParser({"f"}, reasoning=False)
    parts = [*parser.feed(text), *parser.finish()]
    assert not any(isinstance(part, CallBegin) for part in parts)
    shown = "".join(part.text for part in parts if isinstance(part, Content))
    assert shown.replace("\n", "") == text.replace(CALL, "").replace(CALL_END, "")


def names(node):
    """Return the modules that a statement imports."""
    if isinstance(node, ast.Import):
        return {name.name for name in node.names}
    return {node.module} if isinstance(node, ast.ImportFrom) else set()


@pytest.mark.parametrize(
    "typed", ["<|image_pad|>", "<|vision_start|><|video_pad|><|vision_end|>", "<|image_pad|>" * 64]
)
def test_a_placeholder_that_is_typed_is_text(vision_checkpoint, typed):
    """In a chat and in a plain prompt it stands for no image; as token ids it is refused."""
    processor = load_processor(vision_checkpoint)
    images = ImagePreparer(processor, max_tokens=512)
    preparer = PromptPreparer(processor.tokenizer, len(processor.tokenizer), CHAT_TEMPLATE, images)
    for prompt in (ChatPrompt(({"role": "user", "content": typed},)), TextPrompt(typed)):
        prepared = preparer.prepare(prompt)
        assert prepared.images is None
        assert not {images.pad_token_id, images.video_token_id} & set(prepared.token_ids)
    with pytest.raises(ValidationError):
        preparer.prepare(TokensPrompt((images.pad_token_id, images.video_token_id)))
