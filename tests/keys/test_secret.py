"""Keys as text: random, with a public id, kept as a digest."""

import re

import pytest

from keys.secret import ID, digest, id_of, new_key, same


def test_a_key_has_a_public_id_and_256_random_bits():
    """43 letters and digits of 62 are 256 bits; no two keys are alike."""
    made = [new_key() for _ in range(50)]
    assert len({key.text for key in made}) == len({key.id for key in made}) == 50
    for key in made:
        assert re.fullmatch(rf"avito_{key.id}_[A-Za-z0-9]{{43}}", key.text)
        assert ID.fullmatch(key.id)
        assert id_of(key.text) == key.id
        assert key.hash == digest(key.text)


def test_the_text_of_a_key_is_in_no_repr():
    """A log line of the object shows no secret."""
    key = new_key()
    assert key.text not in repr(key)


def test_another_secret_for_the_same_key():
    """A rotation keeps the id."""
    first = new_key()
    second = new_key(first.id)
    assert second.id == first.id
    assert not same(second.hash, first.hash)


@pytest.mark.parametrize(
    "text", ["", "avito_", "avito_abc_def", "sk-1", "avito_" + "a" * 12 + "_" + "é" * 43, "avito_" + "A" * 12]
)
def test_what_is_no_key_has_no_id(text):
    """Whatever a client sends."""
    assert id_of(text) is None
    assert id_of(new_key().text + "\n") is None
