"""What ``chartloom capacity`` predicts, beside what is measured."""
