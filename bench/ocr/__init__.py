"""What reading a document costs, in time, memory and errors."""
