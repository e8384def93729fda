"""Two hundred generated schemas: a complete answer conforms to its schema, a cut one has finish_reason `length`."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import openai
import pytest

pytestmark = pytest.mark.slow

NO_KEY = "none"  # the client insists on one, the service does not
COUNT = 80, 200  # the second with `--long`
MAX_TOKENS = 400
AT_ONCE = 32
WORDS = ["alpha", "beta", "цена", "город", "size", "кот", "x", "tag-1", "with space", 'quo"te']


class SchemaMaker:
    """Makes schemas whose answers are short: all lengths, counts and numbers have an upper limit."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def schema(self):
        return self.object(2) if self.random.random() < 0.8 else self.any(2)

    def any(self, depth):
        kinds = [self.string, self.integer, self.choice, self.constant, self.boolean]
        deep = [self.array, self.object, self.either] if depth else []
        make = self.random.choice(kinds + deep)
        return make(depth - 1) if make in deep else make()

    def string(self):
        if self.random.random() < 0.3:
            return {"type": "string", "pattern": self.random.choice(["^[a-z]{1,5}$", "^\\d{4}-\\d{2}$", "^(да|нет)$"])}
        least = self.random.randint(0, 3)
        return {"type": "string", "minLength": least, "maxLength": least + self.random.randint(1, 12)}

    def integer(self):
        least = self.random.randint(-50, 50)
        return {"type": "integer", "minimum": least, "maximum": least + self.random.randint(0, 1000)}

    def choice(self):
        return {"enum": self.random.sample([*WORDS, 1, 2.5, None, True], self.random.randint(1, 4))}

    def constant(self):
        return {"const": self.random.choice(WORDS)}

    def boolean(self):
        return {"type": ["boolean", "null"]} if self.random.random() < 0.3 else {"type": "boolean"}

    def array(self, depth):
        least = self.random.randint(0, 1)
        return {"type": "array", "items": self.any(depth), "minItems": least, "maxItems": least + 2}

    def object(self, depth):
        names = self.random.sample(WORDS, self.random.randint(1, 4))
        required = [name for name in names if self.random.random() < 0.7]
        properties = {name: self.any(depth) for name in names}
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    def either(self, depth):
        return {"anyOf": [self.any(depth), self.any(0)]}


@pytest.fixture(scope="module")
def answers(demo_server, often):
    """Each schema with the text and the finish reason of its answer."""
    maker = SchemaMaker(1)
    schemas = [maker.schema() for _ in range(often(*COUNT))]
    with openai.OpenAI(
        base_url=f"http://127.0.0.1:{demo_server.port}/v1", api_key=NO_KEY, max_retries=0, timeout=240
    ) as client:

        def ask(schema):
            answer = client.chat.completions.create(
                model="avibe",
                messages=[{"role": "user", "content": "Напиши объявление."}],
                max_tokens=MAX_TOKENS,
                seed=1,
                response_format={"type": "json_schema", "json_schema": {"name": "generated", "schema": schema}},
            )
            return schema, answer.choices[0].message.content, answer.choices[0].finish_reason

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(ask, schemas))


def test_every_complete_answer_conforms_to_its_schema(answers):
    """Checked by another library than the one that compiles the grammar."""
    for schema, text, reason in answers:
        if reason == "stop":
            jsonschema.validate(json.loads(text), schema)


def test_nearly_all_answers_are_complete_and_the_others_are_cut(answers):
    """At least 95 of 100 end with `stop`, the others with `length`."""
    reasons = [reason for _, _, reason in answers]
    assert set(reasons) <= {"stop", "length"}
    assert reasons.count("stop") >= 0.95 * len(answers)
