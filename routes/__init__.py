"""The routes: pages for people, JSON for programs. They parse and answer; whatever generates stands behind `Backend`."""
