"""Between what clients send and tokens: prompts, images, special tokens, detokenizing and grammars."""
