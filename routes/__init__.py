"""The routes: pages for people, JSON for programs. They parse and answer; a `Backend` generates."""
