"""OpenAI's Responses API, POST /v1/responses and what was stored by it.

views -> create -> requests, items, conversation; the answer: output_items, events -> response; store: what is kept.
"""
