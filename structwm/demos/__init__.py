"""What `structwm demo` runs, and toy models for tests and first experiments."""
