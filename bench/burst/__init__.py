"""A thousand patients at once, and one of them with five hundred documents more."""
