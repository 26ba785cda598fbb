"""The ``chartloom`` command: the embedded database, four service processes, documents in and findings out."""
