"""What a file is and holds, before anything of it is rendered: found in a confined child, decided by a policy."""
