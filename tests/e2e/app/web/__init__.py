"""The HTML pages of the demo."""
