"""The court: this project's own case, seven architectures in two packages against the official model."""
