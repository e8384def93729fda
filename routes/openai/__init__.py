"""The API that OpenAI's clients speak, under /v1. Validated here, answered through the `Backend` seam.

views -> chat, completions -> messages, sampling, run -> body; streaming writes events, answers writes whole bodies.
"""
