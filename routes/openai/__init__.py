"""The OpenAI-compatible API under /v1.

views -> chat, completions -> messages, sampling, tools, structured_output. requests: the models of request bodies;
chat_response, completions, answers: response bodies and stream events.
"""
