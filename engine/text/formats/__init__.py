"""One module for each image format: how a file becomes pixels that look as they do in a browser.

Browsers are the measure, since people send what they see; where a specification and Chromium differ, Chromium wins.
Each `decode` returns a `Layer`: pixels as they are stored, and what has to be done to them. Nothing here checks sizes
or maps errors; `engine.text.images` does both, and calls these modules in processes that can be killed.
"""
