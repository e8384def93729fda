"""The API of OpenAI's clients, under /v1.

views -> chat, completions -> messages, sampling, tools, structured_output; requests holds the models of the bodies.
"""
