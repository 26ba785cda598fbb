"""What was found, as the clinical rows that an app reads; written once, whatever fails."""
