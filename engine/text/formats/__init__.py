"""One module for each image format: how a file becomes pixels that look as they do in a browser.

Browsers are the measure, since people send what they see; where a specification and Chromium differ, Chromium wins.
Each `decode` takes a file and the size that was checked, and returns a `Layer`: pixels as they are stored, and what has
to be done to them. A file can tell several sizes: where the one that is about to be allocated is not the one that was
checked, `decode` raises Damaged before (`avif` tells an exception). Limits and errors are for `engine.text.images`,
which calls these modules in processes that can be killed.
"""
