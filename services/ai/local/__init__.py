"""The engine that runs on this machine: sections, terms and rules. Rules are data in ``rules/``; modules apply them."""
