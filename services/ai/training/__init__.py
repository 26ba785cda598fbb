"""How the trained parts of the local engine are made: corpora, clusters of words, the tagger and the negation model."""
